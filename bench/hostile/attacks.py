"""The attacks, in the order of the table."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal

from bench.hostile import fleet_attacks, gateway_attacks, grpc_attacks


async def no_attack(address: str) -> None:
    """Nothing: the other tenant calls alone."""
    await grpc_attacks.forever()


@dataclass(frozen=True)
class Attack:
    """An attack on the address of a server or of a gateway."""

    run: Callable[[str], Awaitable[None]]
    on_gateway: bool = False
    open_files: int | None = None
    """The soft limit of open files that the server starts with."""
    with_tokens: bool = False
    """Whether the server verifies tokens, and the other tenant sends one."""
    with_fleet: bool = False
    """Whether it needs the tenant with the large fleet."""
    webhook_figure: Literal["posts", "new webhook"] | None = None
    """What the attacker measures of the webhooks that it receives; None: the server sends none."""
    is_prepared: bool = False
    """Whether it begins when it sets `fleet_attacks.prepared`."""
    other_tenant: Literal["reads", "posts", "watches"] = "reads"
    """What the other tenant does: read a job, post a large body, or open a watch."""
    server_away: bool = False
    """Whether the server is away during the attack, and comes back after it."""

    @property
    def name(self) -> str:
        """The name for `--only`."""
        name = self.run.__name__.replace("_", "-")
        return f"gateway-{name}" if self.on_gateway else name

    @property
    def description(self) -> str:
        """What the attacker does, without a period."""
        return (self.run.__doc__ or "").rstrip(".")


def _with_tokens(run: Callable[[str], Awaitable[None]], **options: Any) -> Attack:
    """Return an attack on a gateway in front of a server that verifies tokens."""
    return Attack(run, on_gateway=True, with_tokens=True, **options)


_ATTACKS = (
    Attack(no_attack),
    Attack(grpc_attacks.unread_pages),
    Attack(grpc_attacks.large_health_names),
    Attack(grpc_attacks.large_reflection_names),
    Attack(grpc_attacks.resets),
    Attack(grpc_attacks.resets_of_calls),
    Attack(grpc_attacks.large_report_ids),
    Attack(grpc_attacks.unread_reports),
    Attack(grpc_attacks.unread_report_batches),
    Attack(grpc_attacks.compressed_statuses),
    Attack(grpc_attacks.half_sent_requests),
    Attack(grpc_attacks.half_sent_requests_without_credentials),
    Attack(grpc_attacks.large_documents),
    Attack(grpc_attacks.nested_documents),
    Attack(grpc_attacks.unknown_fields),
    Attack(grpc_attacks.large_metadata),
    Attack(grpc_attacks.continuation_frames),
    Attack(grpc_attacks.watches_at_once),
    Attack(grpc_attacks.unread_watches),
    Attack(grpc_attacks.watches_of_tenants),
    Attack(grpc_attacks.watches_of_large_jobs),
    Attack(grpc_attacks.idle_connections, open_files=300),
    Attack(fleet_attacks.selectors, with_fleet=True),
    Attack(fleet_attacks.selectors_without_matches, with_fleet=True),
    Attack(fleet_attacks.devices_with_many_groups, with_fleet=True),
    Attack(fleet_attacks.previews, with_fleet=True),
    Attack(fleet_attacks.audit_log_refusals),
    Attack(fleet_attacks.unread_events),
    Attack(fleet_attacks.event_pages),
    Attack(fleet_attacks.webhooks_that_hang, webhook_figure="posts"),
    Attack(fleet_attacks.webhooks_with_endless_responses, webhook_figure="posts"),
    Attack(fleet_attacks.webhook_replays, webhook_figure="posts", is_prepared=True),
    Attack(fleet_attacks.webhook_urls, webhook_figure="posts", is_prepared=True),
    Attack(fleet_attacks.webhooks_of_tenants_that_hang, webhook_figure="new webhook"),
    Attack(no_attack, on_gateway=True),
    Attack(gateway_attacks.bodies_with_junk_token, on_gateway=True),
    Attack(gateway_attacks.nested_bodies, on_gateway=True),
    Attack(gateway_attacks.half_sent_bodies, on_gateway=True),
    Attack(gateway_attacks.half_sent_bodies_with_junk_token, on_gateway=True),
    Attack(gateway_attacks.unread_responses, on_gateway=True),
    Attack(gateway_attacks.slow_headers, on_gateway=True),
    Attack(gateway_attacks.slow_bodies, on_gateway=True),
    Attack(gateway_attacks.large_headers, on_gateway=True),
    Attack(gateway_attacks.event_streams, on_gateway=True),
    _with_tokens(gateway_attacks.bodies_under_ten_spellings, other_tenant="posts"),
    _with_tokens(gateway_attacks.bodies_of_ten_devices, other_tenant="posts"),
    _with_tokens(gateway_attacks.watches_under_ten_spellings, other_tenant="watches"),
    _with_tokens(gateway_attacks.watches_of_ten_users, other_tenant="watches"),
    _with_tokens(
        gateway_attacks.watches_with_junk_tokens, other_tenant="watches", server_away=True
    ),
)

ATTACKS = {attack.name: attack for attack in _ATTACKS}
