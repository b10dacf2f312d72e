"""Clients that are generated from the .proto files in the wheel: Go and TypeScript."""

import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.clients.conftest import FOLDER, Run, installed
from tests.gateway.support import require_go
from tests.support.database import Database
from tests.support.server import Server

# Compiling Go takes minutes where nothing is cached.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

GO_CLIENT = """
package main

import (
	"context"
	"fmt"
	"os"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	jobsv1 "github.com/jobs-grpc/jobs-grpc/tests/clients/fleet/jobs/v1"
)

func main() {
	plaintext := grpc.WithTransportCredentials(insecure.NewCredentials())
	connection, err := grpc.NewClient(os.Args[1], plaintext)
	if err != nil {
		panic(err)
	}
	ctx := metadata.AppendToOutgoingContext(context.Background(), "x-tenant-id", os.Args[2])
	_ = jobsv1.NewDeviceJobServiceClient(connection)
	response, err := jobsv1.NewJobServiceClient(connection).CreateJob(ctx, &jobsv1.CreateJobRequest{
		JobId:        "from-go",
		DocumentType: "reboot",
		Target:       &jobsv1.CreateJobRequest_TargetAll{TargetAll: true},
	})
	if err != nil {
		panic(err)
	}
	fmt.Println(response)
}
"""

TYPESCRIPT_CLIENT = """
import { create, toJsonString } from "@bufbuild/protobuf";
import { DeviceJobService } from "./fleet/jobs/v1/device_jobs_pb.js";
import { CreateJobRequestSchema, JobService } from "./fleet/jobs/v1/jobs_pb.js";

const request = create(CreateJobRequestSchema, {
  jobId: "from-typescript",
  documentType: "reboot",
  target: { case: "targetAll", value: true },
});
console.log(JobService.method.createJob.name, DeviceJobService.typeName);
console.log(toJsonString(CreateJobRequestSchema, request));
"""


async def _generate(
    run: Run, contract: Path, *options: str | Path, imports: Sequence[Path] = ()
) -> None:
    """Run protoc with plugins on the contract, and on `imports`."""
    protos = sorted((contract / "fleet" / "jobs" / "v1").glob("*.proto"))
    assert len(protos) >= 3
    protoc = sys.executable, "-m", "grpc_tools.protoc", f"--proto_path={contract}"
    await run(*protoc, *options, *protos, *imports)


async def test_generated_go_compiles_and_makes_a_call(
    server: Server, database: Database, tenant: str, contract: Path, run: Run, tmp_path: Path
) -> None:
    await database.add_devices(tenant, 2)
    await _generate(
        run,
        contract,
        *(f"--plugin={installed('protoc-gen-go')}", f"--plugin={installed('protoc-gen-go-grpc')}"),
        *(f"--go_out={tmp_path}", "--go_opt=paths=source_relative"),
        *(f"--go-grpc_out={tmp_path}", "--go-grpc_opt=paths=source_relative"),
    )
    # With the versions of go.mod, so that nothing is downloaded.
    for name in ("go.mod", "go.sum"):
        (tmp_path / name).write_bytes((FOLDER / name).read_bytes())
    (tmp_path / "main.go").write_text(GO_CLIENT)

    output = await run(require_go(), "run", ".", server.address, tenant, cwd=tmp_path)

    assert 'job_id:"from-go"' in output
    assert "execution_count:2" in output


async def test_generated_typescript_compiles_and_runs(
    contract: Path, run: Run, tmp_path: Path
) -> None:
    (tmp_path / "node_modules").symlink_to(FOLDER / "node_modules")
    (tmp_path / "package.json").write_text('{"type": "module"}')
    (tmp_path / "client.ts").write_text(TYPESCRIPT_CLIENT)
    plugin = f"--plugin={installed('protoc-gen-es')}"
    # For Go, the options have a module of their own.
    options = contract / "buf" / "validate" / "validate.proto"
    es_options = f"--es_out={tmp_path}", "--es_opt=target=ts,import_extension=js"
    await _generate(run, contract, plugin, *es_options, imports=[options])

    await run(
        *(installed("tsc"), "--strict", "--skipLibCheck", "--lib", "ES2022,DOM"),
        *("--target", "ES2022", "--module", "NodeNext", "client.ts"),
        cwd=tmp_path,
    )
    output = await run("node", "client.js", cwd=tmp_path)

    assert output.splitlines() == [
        "CreateJob fleet.jobs.v1.DeviceJobService",
        '{"jobId":"from-typescript","documentType":"reboot","targetAll":true}',
    ]
