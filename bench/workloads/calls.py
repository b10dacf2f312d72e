"""Calls a second, and how long they take at the same load: create, read, list."""

import statistics
import time
from collections.abc import Awaitable, Callable

from fleet.jobs.v1 import jobs_pb2 as pb

from bench import seed
from bench.calls import Call, Void, rest, rpc
from bench.environment import Environment, Server
from bench.h2load import load
from bench.measure import DOCUMENT, LIMIT, PARTS, SERVICE, Results, Scale, alternate

TEN, THOUSAND, UNDER_WAY = "10", "1000", "1000-under-way"

# Whose job is read, and how many executions it has.
READ = {TEN: 10, THOUSAND: 1000, UNDER_WAY: 1000}

# Of the document's rate, for latencies at equal load.
_SHARE = 0.5

# A response with a time in it may be some bytes longer or shorter.
VARIES = 16


async def run(env: Environment, scale: Scale, results: Results) -> None:
    """create_one, get_10, get_1000 and their latencies; list; pages."""
    await _seed(env, scale)
    async with env.serving() as service, env.serving_document() as document:
        await _create_one(env, scale, results, service, document)
        # Ten thousand jobs that no statistics know of yet would slow the reads of the document's
        # design, which keeps its plans.
        await env.settle()
        for tenant in READ:
            await _get(env, scale, results, service, document, tenant)
        for tenant in (TEN, THOUSAND):
            await _get_p99(scale, results, service, document, tenant)
        await _list(env, scale, results, service, document)
        await _pages(scale, results, service)


async def _seed(env: Environment, scale: Scale) -> None:
    jobs, executions = scale.listed
    await env.empty()
    await seed_read(env)
    await seed.fleet(env, "listed", executions)
    await seed.fleet(env, "few", 10)
    await seed.fleet(env, "largest", scale.sizes[-1])
    await seed.job(env, "largest", "j")
    for number in range(jobs):
        await seed.job(env, "listed", f"j{number}")
        await seed.job(env, "few", f"j{number}")
    await env.settle()


async def seed_read(env: Environment) -> None:
    """The jobs that are read."""
    for tenant, executions in READ.items():
        await seed.fleet(env, tenant, executions)
        await seed.job(env, tenant, "j")
    await seed.started(env, UNDER_WAY, "j")


def case(tenant: str) -> str:
    """What is read of the tenant."""
    same = tenant != UNDER_WAY
    return f"{READ[tenant]:,} executions" + ("" if same else ", started one by one")


def create_one(service: Server, document: Server) -> tuple[Call, Call]:
    """CreateJob for one device of TEN; each call makes a job."""
    device = "d0000000"
    request = pb.CreateJobRequest(document_type="bench", target_device_id=device)
    body: dict[str, object] = {"document_type": "bench", "target_device_id": device}
    return (
        rpc(service.address, "CreateJob", request, tenant=TEN),
        rest(document.address, "", body, tenant=TEN),
    )


def get(service: Server, document: Server, tenant: str) -> tuple[Call, Call]:
    """GetJob of all the tenant's devices."""
    return (
        rpc(service.address, "GetJob", pb.GetJobRequest(job_id="j"), tenant=tenant),
        rest(document.address, "/j", tenant=tenant),
    )


def rate(
    call: Call, scale: Scale, clients: int = 16, varies: int = 0
) -> Callable[[], Awaitable[float]]:
    """Calls a second."""

    async def measure() -> float:
        return (await load(call, seconds=scale.seconds, clients=clients, varies=varies)).rate

    return measure


async def _create_one(
    env: Environment, scale: Scale, results: Results, service: Server, document: Server
) -> None:
    calls = create_one(service, document)
    subjects = zip((SERVICE, DOCUMENT), calls, strict=True)
    await alternate(
        results,
        "create_one",
        "1 device",
        "/s",
        scale.runs,
        {subject: rate(call, scale, varies=VARIES) for subject, call in subjects},
    )
    for connection, table in (
        (env.service, "jobs.job_executions"),
        (env.document, "job_executions"),
    ):
        jobs = await connection.fetchval(
            f"SELECT count(*) FROM {table.replace('job_executions', 'jobs')} WHERE tenant_id = $1",
            TEN,
        )
        executions = await connection.fetchval(
            f"SELECT count(*) FROM {table} WHERE tenant_id = $1", TEN
        )
        # The one that is read has ten.
        if executions != jobs + 9:
            raise Void(f"{table}: {jobs} jobs have {executions} executions")


async def _get(
    env: Environment, scale: Scale, results: Results, service: Server, document: Server, tenant: str
) -> None:
    ours, theirs = get(service, document, tenant)
    answer = (await ours.once()).body
    if len(pb.GetJobResponse.FromString(answer).job.executions) != READ[tenant]:
        raise Void("GetJob did not answer all executions")
    async with env.echoing("GetJob", answer) as echo, env.parts(tenant, answer) as parts:
        echoed, _ = get(echo, document, tenant)
        by_parts, _ = get(parts, document, tenant)
        subjects = {SERVICE: ours, DOCUMENT: theirs, LIMIT: echoed, PARTS: by_parts}
        await alternate(
            results,
            "get_rate",
            case(tenant),
            "/s",
            scale.runs,
            {subject: rate(call, scale) for subject, call in subjects.items()},
        )


async def _get_p99(
    scale: Scale, results: Results, service: Server, document: Server, tenant: str
) -> None:
    slower = results.find("get_rate", case(tenant), DOCUMENT)
    assert slower is not None
    limit = slower.median * _SHARE

    def p99(call: Call) -> Callable[[], Awaitable[float]]:
        async def measure() -> float:
            return (await load(call, seconds=scale.seconds, rate=limit)).p99 * 1000

        return measure

    subjects = zip((SERVICE, DOCUMENT), get(service, document, tenant), strict=True)
    await alternate(
        results,
        "get_p99",
        case(tenant),
        "ms",
        scale.runs,
        {subject: p99(call) for subject, call in subjects},
    )


async def _list(
    env: Environment, scale: Scale, results: Results, service: Server, document: Server
) -> None:
    jobs, executions = scale.listed
    for tenant, size in (("few", 10), ("listed", executions)):
        listed = f"50 of {jobs} jobs of {size:,}"
        await alternate(
            results,
            "list_rate",
            listed,
            "/s",
            scale.runs,
            {
                SERVICE: rate(
                    rpc(service.address, "ListJobs", pb.ListJobsRequest(), tenant=tenant), scale
                ),
                DOCUMENT: rate(rest(document.address, tenant=tenant), scale, clients=4),
            },
        )

        async def in_database() -> float:
            return await _median_ms(
                lambda: env.service.fetch(
                    "SELECT * FROM jobs.list_jobs($1, NULL, NULL, NULL, 51, 0)",
                    tenant,  # noqa: B023
                )
            )

        await alternate(
            results, "list_in_database", listed, "ms", scale.runs, {SERVICE: in_database}
        )


async def _median_ms(action: Callable[[], Awaitable[object]]) -> float:
    taken = []
    for _ in range(20):
        started = time.perf_counter()
        await action()
        taken.append((time.perf_counter() - started) * 1000)
    return statistics.median(taken)


async def _pages(scale: Scale, results: Results, service: Server) -> None:
    """ListJobExecutions to the end: pages of a thousand, of the largest job."""
    taken: list[float] = []
    request = pb.ListJobExecutionsRequest(job_id="j", limit=1000)
    executions = 0
    while True:
        answer = await rpc(service.address, "ListJobExecutions", request, tenant="largest").once()
        taken.append(answer.seconds * 1000)
        page = pb.ListJobExecutionsResponse.FromString(answer.body)
        executions += len(page.executions)
        request.page_token = page.next_page_token
        if not page.next_page_token:
            break
    if executions != scale.sizes[-1]:
        raise Void(f"the pages had {executions} executions")
    tenth = max(1, len(taken) // 10)
    middle = len(taken) // 2
    for part, pages in (
        ("first tenth", taken[:tenth]),
        ("middle tenth", taken[middle - tenth // 2 : middle + tenth // 2 + 1]),
        ("last tenth", taken[-tenth:]),
    ):
        results.add("page", part, SERVICE, "ms", statistics.median(pages))
