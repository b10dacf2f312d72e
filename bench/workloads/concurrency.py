"""The same calls by more and more clients, and with more than one process."""

from fleet.jobs.v1 import jobs_pb2 as pb

from bench import seed
from bench.calls import Call, rest, rpc
from bench.environment import Environment, Server
from bench.measure import DOCUMENT, SERVICE, Results, Scale, alternate
from bench.workloads import cancel
from bench.workloads.calls import TEN, THOUSAND, VARIES, create_one, get, rate, seed_read

_PROCESSES = (1, 2)
_LISTED = 50


async def run(env: Environment, scale: Scale, results: Results) -> None:
    """…_by_clients and …_by_processes: calls a second."""
    await env.empty()
    await seed_read(env)
    await seed.fleet(env, "listed", 10)
    for number in range(_LISTED):
        await seed.job(env, "listed", f"j{number}")
    await env.settle()
    async with env.serving() as service, env.serving_document() as document:
        for clients in scale.clients:
            for name, calls in _calls(service, document).items():
                await _compare(scale, results, f"{name}_by_clients", f"{clients}", calls, clients)
        await cancel.run(env, scale, results, service, document)
    for processes in _PROCESSES:
        async with (
            env.serving(processes) as service,
            env.serving_document(processes) as document,
        ):
            # Of which nearly all is the server's CPU: there, a second process shows.
            thousand = {"get_1000": get(service, document, THOUSAND)}
            for name, calls in (_calls(service, document) | thousand).items():
                await _compare(scale, results, f"{name}_by_processes", f"{processes}", calls, 16)


def _calls(service: Server, document: Server) -> dict[str, tuple[Call, Call]]:
    listing = pb.ListJobsRequest()
    return {
        "create": create_one(service, document),
        "get": get(service, document, TEN),
        "list": (
            rpc(service.address, "ListJobs", listing, tenant="listed"),
            rest(document.address, tenant="listed"),
        ),
    }


async def _compare(
    scale: Scale, results: Results, workload: str, case: str, calls: tuple[Call, Call], clients: int
) -> None:
    ours, theirs = calls
    await alternate(
        results,
        workload,
        case,
        "/s",
        1,
        {
            SERVICE: rate(ours, scale, clients, VARIES),
            DOCUMENT: rate(theirs, scale, clients, VARIES),
        },
    )
