"""`jobs-grpc webhooks`: manages the webhooks of a tenant."""

import argparse
import time
from collections.abc import Iterator, Sequence

from fleet.jobs.v1 import events_pb2 as pb

from jobs_grpc.cli import arguments
from jobs_grpc.cli.changes import LOST_RESPONSE, confirm, explaining_failures
from jobs_grpc.cli.command import Subparsers, add_client_command
from jobs_grpc.cli.errors import CliError, InvalidInput
from jobs_grpc.cli.event_text import add_types
from jobs_grpc.cli.fields import Fields, add_fields, forward, forwarded
from jobs_grpc.cli.formatting import format_field, format_moment
from jobs_grpc.cli.listing import FORMATS, Listing
from jobs_grpc.cli.output import field_lines, print_note, print_result
from jobs_grpc.cli.tables import Column
from jobs_grpc.client import EventsClient

_STORE_NOTE = (
    "store the secret now: it is not shown again. The receiver verifies the signature of each"
    " delivery with it"
)

_ERRORS = {
    pb.Webhook.REDIRECT: "the endpoint answered with a redirect, which is not followed",
    pb.Webhook.TIMEOUT: "no response within 15 seconds",
    pb.Webhook.HOST_NOT_FOUND: "the host name could not be resolved",
    pb.Webhook.ADDRESS_NOT_ALLOWED: "the server may not send to this address or port",
    pb.Webhook.CONNECTION_FAILED: "the connection was refused or lost",
    pb.Webhook.TLS_FAILED: "the certificate is not valid for the host, or TLS failed",
}

_CAUSES = {
    pb.Webhook.OPERATOR: "by an operator",
    pb.Webhook.RETRIES_EXHAUSTED: "after five days of failures",
    pb.Webhook.GONE: "because the endpoint answered with status 410",
}

# Servers begin a delivery within a second or so after it is due.
_MAX_DUE_SECONDS = 60

_WAITING_NOTE = (
    "WAITING: deliveries are due, but no server begins them, or all are busy. Run"
    " `jobs-grpc doctor` where the server runs: it needs JOBS_WEBHOOK_KEYS_FILE and"
    " JOBS_OWNER_DATABASE_URL"
)

_UNVERIFIED_NOTE = (
    "UNVERIFIED: before the first event, the receiver must answer a signed event of the type"
    " webhook.test with a 2xx status; `jobs-grpc webhooks test WEBHOOK` sends one now"
)


def _state(webhook: pb.Webhook) -> str:
    if not webhook.enabled:
        return "DISABLED"
    if _is_waiting(webhook):
        return "WAITING"
    if not webhook.HasField("verified_at"):
        return "UNVERIFIED"
    return "RETRYING" if webhook.failure_count else "ENABLED"


def _is_waiting(webhook: pb.Webhook) -> bool:
    is_due = webhook.HasField("due_since") and not webhook.failure_count
    return is_due and webhook.due_since.seconds < time.time() - _MAX_DUE_SECONDS


def _types(webhook: pb.Webhook) -> str:
    return " ".join(webhook.types) or "all"


_WEBHOOKS = Listing[pb.Webhook](
    "webhooks",
    (
        Column("webhook_id", "WEBHOOK"),
        Column("state", read=_state),
        Column("url", min_width=32),
        Column("last_success_at", "LAST_SUCCESS", drop_order=1),
        Column("failure_count", "FAILURES", drop_order=2, is_number=True),
        Column("types", drop_order=3, text=_types, min_width=12),
        Column("description", drop_order=4, wide=True),
        Column("position", read=lambda webhook: str(webhook.position), drop_order=5, wide=True),
    ),
)

_URL = {"URL": ("url", "endpoint, https://…")}


def add_command(commands: Subparsers) -> None:
    parser = commands.add_parser("webhooks", help="manage webhooks, which receive events")
    subcommands = parser.add_commands()
    _WEBHOOKS.add_options(add_client_command(subcommands, "list", _list, formats=FORMATS))
    add_client_command(subcommands, "get WEBHOOK", _get, pb.GetWebhookRequest)
    fields: Fields = {**_URL, "--description TEXT": "description"}
    create = add_client_command(subcommands, "create URL", _create, pb.CreateWebhookRequest, fields)
    add_types(create, "send events of these types only")
    update = add_client_command(subcommands, "update WEBHOOK", _update, pb.UpdateWebhookRequest)
    _add_update_options(update)
    delete = add_client_command(subcommands, "delete WEBHOOK", _delete, pb.DeleteWebhookRequest)
    arguments.add_yes(delete)
    usage = "rotate-secret WEBHOOK"
    add_client_command(subcommands, usage, _rotate_secret, pb.RotateWebhookSecretRequest)
    add_client_command(subcommands, "test WEBHOOK", _test, pb.TestWebhookRequest)


async def _list(args: argparse.Namespace, events: EventsClient) -> None:
    """List webhooks and whether their deliveries succeed.

    jobs-grpc webhooks list
    jobs-grpc webhooks list --json
    """
    webhooks = await events.list_webhooks()
    _WEBHOOKS.print_items(args, webhooks)
    if args.output in ("table", "wide"):
        _print_notes(webhooks)


async def _get(args: argparse.Namespace, events: EventsClient) -> None:
    """Show a webhook and the state of its deliveries.

    jobs-grpc webhooks get wh_4f1c9a
    jobs-grpc webhooks get wh_4f1c9a --json
    """
    webhook = await events.get_webhook(args.webhook_id)
    print_result(args, webhook, *field_lines(_fields(webhook, args.utc), 12))
    if args.output == "text":
        _print_notes([webhook])


def _print_notes(webhooks: Sequence[pb.Webhook]) -> None:
    states = {_state(webhook) for webhook in webhooks}
    if "UNVERIFIED" in states:
        print_note(_UNVERIFIED_NOTE)
    if "WAITING" in states:
        print_note(_WAITING_NOTE)


def _fields(webhook: pb.Webhook, utc: bool) -> Iterator[tuple[str, str]]:
    yield "webhook", webhook.webhook_id
    yield "url", webhook.url
    if webhook.description:
        yield "description", webhook.description
    yield "types", _types(webhook)
    cause = _CAUSES.get(webhook.disabled_cause)
    yield "state", f"{_state(webhook)}{f' {cause}' if cause and not webhook.enabled else ''}"
    yield "position", str(webhook.position)
    if webhook.purged_position:
        yield "lost", f"events up to position {webhook.purged_position} were purged before delivery"
    yield "created", format_moment(webhook.created_at, utc)
    yield "verified", format_field(webhook, "verified_at", utc)
    yield "delivered", format_field(webhook, "last_success_at", utc)
    if webhook.last_error:
        failed_at = format_moment(webhook.last_attempt_at, utc)
        yield "failed", f"{failed_at}: {_error(webhook.last_error, webhook.last_http_status)}"
        yield "failures", f"{webhook.failure_count:,} since the last success"
    if _is_waiting(webhook):
        yield "due since", format_moment(webhook.due_since, utc)
    elif webhook.HasField("next_attempt_at"):
        yield "next delivery", format_moment(webhook.next_attempt_at, utc)


def _error(error: pb.Webhook.DeliveryError.ValueType, status: int) -> str:
    text = _ERRORS.get(error, f"the endpoint answered with status {status}")
    return f"{text} (status {status})" if status and error in _ERRORS else text


async def _create(args: argparse.Namespace, events: EventsClient) -> None:
    """Create a webhook: the server sends events to its URL.

    The server sends each later event, once the URL has answered a signed event of the type
    webhook.test with a 2xx status. The secret is printed once; `webhooks rotate-secret` creates
    another one.

    jobs-grpc webhooks create https://hooks.example.com/jobs
    jobs-grpc webhooks create https://hooks.example.com/jobs --type paused
    """
    advice = "if `webhooks list` shows the webhook, `webhooks rotate-secret` prints a secret for it"
    with explaining_failures(args, lambda: advice, LOST_RESPONSE):
        response = await events.create_webhook(**forwarded(args))
    webhook_id = response.webhook.webhook_id
    print_result(args, response, f"created {webhook_id}", f"secret: {response.secret}")
    print_note(
        f"{_STORE_NOTE}. When the receiver has it, run `jobs-grpc webhooks test {webhook_id}`:"
        " events are sent after a 2xx status"
    )


def _add_update_options(parser: argparse.ArgumentParser) -> None:
    fields: Fields = {"--url URL": _URL["URL"], "--description TEXT": "description"}
    add_fields(parser, pb.Webhook, fields)
    types = parser.add_mutually_exclusive_group()
    add_types(types, "send events of these types only")
    arguments.add_constant(types, "--all-types", "types", [], "send events of all types")
    enabled = parser.add_mutually_exclusive_group()
    arguments.add_constant(enabled, "--enable", "enabled", True, "send events")
    arguments.add_constant(enabled, "--disable", "enabled", False, "send no events")
    position = (
        "send the events after this position: an earlier position sends events again, a later one "
        "skips events"
    )
    add_fields(parser, pb.Webhook, {"--position POSITION": ("position", position)})
    forward(parser, pb.Webhook, "enabled")
    # What no option names stays.
    parser.set_defaults(url=None, description=None, types=None)


async def _update(args: argparse.Namespace, events: EventsClient) -> None:
    """Change a webhook, enable it again, or send events again.

    A webhook that is enabled again continues after its position.

    jobs-grpc webhooks update wh_4f1c9a --enable --position 1795964737123456
    jobs-grpc webhooks update wh_4f1c9a --url https://hooks.example.com/v2
    """
    fields = forwarded(args)
    if [name for name, value in fields.items() if value is not None] == ["webhook_id"]:
        raise InvalidInput("nothing to change; see `jobs-grpc webhooks update --help`")
    webhook = await events.update_webhook(**fields)
    state = f"{_state(webhook)} at position {webhook.position}"
    print_result(args, webhook, f"updated {webhook.webhook_id}: {state}")


async def _delete(args: argparse.Namespace, events: EventsClient) -> None:
    """Delete a webhook.

    jobs-grpc webhooks delete wh_4f1c9a
    jobs-grpc webhooks delete wh_4f1c9a --yes
    """
    question = f"delete {args.webhook_id}? Its secret and its position are lost"
    await confirm(question, yes=args.yes, verb="delete")
    await events.delete_webhook(args.webhook_id)
    print_result(args, pb.DeleteWebhookResponse(), f"deleted {args.webhook_id}")


async def _rotate_secret(args: argparse.Namespace, events: EventsClient) -> None:
    """Give a webhook a new secret, and print it.

    For a day, deliveries are signed with the old secret as well.

    jobs-grpc webhooks rotate-secret wh_4f1c9a
    jobs-grpc webhooks rotate-secret wh_4f1c9a --json
    """
    advice = (
        "the secret may have changed: within a day, repeat the command and give the secret to the"
        " receiver at once"
    )
    with explaining_failures(args, lambda: advice, LOST_RESPONSE):
        response = await events.rotate_webhook_secret(args.webhook_id)
    print_result(args, response, f"secret: {response.secret}")
    print_note(f"{_STORE_NOTE}; for a day, the old secret verifies it as well")


async def _test(args: argparse.Namespace, events: EventsClient) -> None:
    """Send a test event to a webhook, even if it is disabled.

    Exits with 1 if the delivery fails. A 2xx status verifies the URL, so that events are sent. The
    position does not change.

    jobs-grpc webhooks test wh_4f1c9a
    jobs-grpc webhooks test wh_4f1c9a --json
    """
    response = await events.test_webhook(args.webhook_id)
    seconds = response.duration.ToTimedelta().total_seconds()
    delivered = f"delivered in {seconds:.2f} s: status {response.http_status}"
    if not response.error or args.output != "text":
        print_result(args, response, delivered)
    if response.error:
        raise CliError(f"not delivered: {_error(response.error, response.http_status)}")
