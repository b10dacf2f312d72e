// Creates a job for a group, and follows it to its end.
//
//   npm ci && buf generate    # once; buf is https://buf.build/docs/cli
//   node run_job.mjs http://127.0.0.1:50051 demo north

import { randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { fromBinary } from "@bufbuild/protobuf";
import { BinaryReader } from "@bufbuild/protobuf/wire";
import { DurationSchema } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import { JobService, Job_Status } from "./gen/fleet/jobs/v1/jobs_pb.js";

const [server, tenant, group] = process.argv.slice(2);
if (!group) {
  console.error("usage: run_job.mjs URL TENANT GROUP");
  process.exit(2);
}

// For a server on another machine, use an https:// URL, and send a token instead of these headers:
// headers.set("authorization", `Bearer ${token}`). The certificate of a private authority goes into
// nodeOptions: { ca: readFileSync("ca.pem") }.
const transport = createGrpcTransport({
  baseUrl: server,
  defaultTimeoutMs: 30_000,
  pingIntervalMs: 30_000,
  interceptors: [
    (next) => (request) => {
      request.header.set("x-tenant-id", tenant);
      request.header.set("x-user-id", "example");
      return next(request);
    },
  ],
});
const jobs = createClient(JobService, transport);

/** The milliseconds that the server asks to wait before the call is made again; undefined if it asks for none. */
function retryDelay(error) {
  const info = ConnectError.from(error).details.find(({ type }) => type === "google.rpc.RetryInfo");
  if (!info) return undefined;
  const reader = new BinaryReader(info.value);
  reader.tag(); // retry_delay is the only field
  const { seconds, nanos } = fromBinary(DurationSchema, reader.bytes());
  return 1_000 * Number(seconds) + nanos / 1e6;
}

/** Whether the call can succeed later. A server that stops, or a proxy, can reset a call with Canceled. */
function isTransient(error) {
  return retryDelay(error) !== undefined || [Code.Unavailable, Code.Canceled].includes(ConnectError.from(error).code);
}

/** Makes a call that is safe to repeat, and repeats it while it can succeed later. */
async function withRetries(call, attempts = 5) {
  for (let delay = 200; ; delay = Math.min(2 * delay, 5_000)) {
    try {
      return await call();
    } catch (error) {
      if (!isTransient(error) || --attempts === 0) throw error;
      await sleep((retryDelay(error) ?? delay / 2) + (delay / 2) * Math.random());
    }
  }
}

/** Yields the states of a job until it is finished. */
async function* watch(jobId) {
  for (;;) {
    try {
      // A stream has no deadline; pings detect a dead server.
      for await (const { job } of jobs.watchJob({ jobId }, { timeoutMs: 0 })) yield job;
      return;
    } catch (error) {
      if (!isTransient(error)) throw error;
      console.error(ConnectError.from(error).message);
      // Jitter, so that clients do not all return at once after a restart of the server.
      await sleep((retryDelay(error) ?? 0) + 5_000 * Math.random());
    }
  }
}

try {
  // The client chooses the ID, so that a repeated call does not create a second job.
  const request = {
    jobId: randomUUID(),
    documentType: "reboot",
    documentParams: { delay: 5 },
    target: { case: "targetGroupId", value: group },
  };
  const created = await withRetries(() => jobs.createJob(request));
  console.log(`created ${created.jobId} for ${created.executionCount} devices`);

  for await (const job of watch(created.jobId)) {
    const { succeeded } = job.executionCounts;
    console.log(`${Job_Status[job.status]} ${succeeded}/${job.totalExecutions}`);
  }
} catch (error) {
  console.error(ConnectError.from(error).message);
  process.exit(1);
}
