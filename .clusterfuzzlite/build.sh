#!/usr/bin/env bash
# Builds the fuzz targets into $OUT, in the image of the Dockerfile.
set -euo pipefail
export PYTHONPATH=.:generated
python3 -m pip install --quiet --require-hashes --requirement requirements/server.lock
for target in tests/fuzz/fuzz_*.py; do
  compile_python_fuzzer "$target" --paths . --paths generated --hidden-import atheris \
    --collect-data jobs_grpc --collect-data fleet --collect-data buf
done
cd gateway
for target in rest:FuzzBody watch:FuzzFrames; do
  function=${target#*:}
  compile_native_go_fuzzer_v2 "$(go list -m)/internal/${target%:*}" "$function" "${function,,}"
done
