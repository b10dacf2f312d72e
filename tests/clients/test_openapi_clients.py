"""Clients that openapi-generator makes of the OpenAPI document compile and create a job.

The options are the generator's defaults. Java uses the HTTP client of the JDK.
"""

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.clients.conftest import FOLDER, Run, installed
from tests.gateway.conftest import gateway_binary
from tests.gateway.support import GATEWAY, Gateway, require_go, running_gateway
from tests.support.database import Database
from tests.support.processes import skip_without
from tests.support.scale import only_nightly
from tests.support.server import Server

__all__ = ["gateway_binary"]

pytestmark = [pytest.mark.slow, only_nightly]

JARS = FOLDER / "bin" / "java"
WITHOUT_DOCS = "apiTests=false,modelTests=false,apiDocs=false,modelDocs=false"

GO = """
package main

import (
	"context"
	"fmt"
	"os"

	jobs "github.com/GIT_USER_ID/GIT_REPO_ID"
)

func main() {
	config := jobs.NewConfiguration()
	config.Servers = jobs.ServerConfigurations{{URL: os.Args[1]}}
	keys := map[string]jobs.APIKey{"TenantId": {Key: os.Args[2]}}
	ctx := context.WithValue(context.Background(), jobs.ContextAPIKeys, keys)
	api := jobs.NewAPIClient(config).JobsAPI
	request := jobs.NewCreateJobRequest("reboot")
	request.SetJobId("made")
	request.SetTargetAll(true)
	if _, _, err := api.CreateJob(ctx).CreateJobRequest(*request).Execute(); err != nil {
		panic(err)
	}
	job, _, err := api.GetJob(ctx, "made").Execute()
	if err != nil {
		panic(err)
	}
	fmt.Println(job.GetJobId(), job.GetStatus(), job.GetTotalExecutions())
}
"""

PYTHON = """
import sys

import openapi_client as jobs

config = jobs.Configuration(host=sys.argv[1], api_key={"TenantId": sys.argv[2]})
api = jobs.JobsApi(jobs.ApiClient(config))
request = jobs.CreateJobRequest(document_type="reboot", job_id="made", target_all=True)
api.create_job(request)
job = api.get_job("made")
print(job.job_id, job.status, job.total_executions)
"""

TYPESCRIPT = """
import { Configuration, JobsApi } from "./index.js";

declare const process: { argv: string[] };
const [basePath, tenant] = process.argv.slice(2);
const apiKey = (header: string) => (header === "X-Tenant-Id" ? tenant! : "olivia");
const api = new JobsApi(new Configuration({ basePath: basePath!, apiKey }));
const createJobRequest = { documentType: "reboot", jobId: "made", targetAll: true };
await api.createJob({ createJobRequest });
const job = await api.getJob({ jobId: "made" });
console.log(job.jobId, job.status, job.totalExecutions);
"""

JAVA = """
import org.openapitools.client.ApiClient;
import org.openapitools.client.api.JobsApi;
import org.openapitools.client.model.CreateJobRequest;

public class Main {
    public static void main(String[] args) throws Exception {
        ApiClient client = new ApiClient();
        client.updateBaseUri(args[0]);
        client.setRequestInterceptor(request -> request.header("X-Tenant-Id", args[1]));
        JobsApi api = new JobsApi(client);
        api.createJob(new CreateJobRequest().documentType("reboot").jobId("made").targetAll(true));
        var job = api.getJob("made", null);
        System.out.println(job.getJobId() + " " + job.getStatus() + " " + job.getTotalExecutions());
    }
}
"""


@pytest.fixture
async def gateway(
    gateway_binary: Path, server: Server, database: Database, tenant: str
) -> AsyncIterator[Gateway]:
    if not (JARS.is_dir() and shutil.which("javac")):
        skip_without("Java and Maven")
    await database.add_devices(tenant, 2)
    async with running_gateway(gateway_binary, server.address) as gateway:
        yield gateway


async def generate(run: Run, generator: str, target: Path, *options: str) -> None:
    await run(
        *("java", "-XX:TieredStopAtLevel=1", "-cp", f"{JARS}/*"),
        *("org.openapitools.codegen.OpenAPIGenerator", "generate", "--skip-validate-spec"),
        *("--input-spec", GATEWAY / "gen" / "openapi.json", "--output", target),
        *("--generator-name", generator, "--global-property", WITHOUT_DOCS, *options),
    )


async def test_go(gateway: Gateway, tenant: str, run: Run, tmp_path: Path) -> None:
    await generate(run, "go", tmp_path)
    (tmp_path / "main").mkdir()
    (tmp_path / "main" / "main.go").write_text(GO)

    output = await run(require_go(), "run", "./main", gateway.url, tenant, cwd=tmp_path)

    assert output == "made IN_PROGRESS 2\n"


async def test_python(gateway: Gateway, tenant: str, run: Run, tmp_path: Path) -> None:
    await generate(run, "python", tmp_path)
    (tmp_path / "main.py").write_text(PYTHON)
    path = f"PYTHONPATH={FOLDER / 'bin' / '.python'}"

    output = await run(
        "env", path, installed("python"), "main.py", gateway.url, tenant, cwd=tmp_path
    )

    assert output == "made IN_PROGRESS 2\n"


async def test_typescript(gateway: Gateway, tenant: str, run: Run, tmp_path: Path) -> None:
    js = "importFileExtension=.js"  # as modules of Node.js need it
    await generate(run, "typescript-fetch", tmp_path, "--additional-properties", js)
    (tmp_path / "package.json").write_text('{"type": "module"}')
    (tmp_path / "main.ts").write_text(TYPESCRIPT)
    await run(
        *(installed("tsc"), "--strict", "--skipLibCheck", "--lib", "ES2022,DOM"),
        *("--target", "ES2022", "--module", "NodeNext", "main.ts"),
        cwd=tmp_path,
    )

    output = await run("node", "main.js", gateway.url, tenant, cwd=tmp_path)

    assert output == "made IN_PROGRESS 2\n"


async def test_java(gateway: Gateway, tenant: str, run: Run, tmp_path: Path) -> None:
    await generate(run, "java", tmp_path, "--library", "native")
    sources = tmp_path / "src" / "main" / "java"
    (sources / "Main.java").write_text(JAVA)
    files = await asyncio.to_thread(lambda: sorted(sources.rglob("*.java")))
    await run("javac", "-nowarn", "-cp", f"{JARS}/*", "-d", tmp_path / "classes", *files)

    classes = f"{tmp_path / 'classes'}:{JARS}/*"
    output = await run("java", "-cp", classes, "Main", gateway.url, tenant)

    assert output == "made IN_PROGRESS 2\n"
