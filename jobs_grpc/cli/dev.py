"""`jobs-grpc dev`: runs PostgreSQL, a demo fleet and the server on this machine."""

import argparse
import os
import shlex
import shutil
import sys
import textwrap
from contextlib import ExitStack
from pathlib import Path

from jobs_grpc.cli import arguments
from jobs_grpc.cli.command import Subparsers, add_local_command
from jobs_grpc.cli.errors import CliError, InvalidInput
from jobs_grpc.config import DEFAULT_ADDRESS, Config
from jobs_grpc.db.migrate import MigrationError
from jobs_grpc.dev import embedded_postgres, environment
from jobs_grpc.dev.demo_fleet import DEMO_DEVICE_COUNT, DEMO_GROUPS, DEMO_TENANT
from jobs_grpc.dev.device_tls import (
    DEMO_DEVICE,
    device_tls_folder,
    device_tls_settings,
    make_device_tls,
)
from jobs_grpc.dev.simulated_fleet import start_simulated_fleet
from jobs_grpc.dev.webhooks import make_webhook_keys
from jobs_grpc.server.signals import interrupt_on_stop_signals, run_until_stop_signal
from jobs_grpc.webhooks.destinations import webhook_destinations

_CONSOLE = "Console: http://127.0.0.1:8080/console, while the gateway runs (jobs-gateway)"
# The wheel does not contain the pages.
_DOCS = "https://github.com/jobs-grpc/jobs-grpc/blob/main/docs"


def add_command(commands: Subparsers) -> None:
    help_text = (
        "also run simulated devices that carry out the jobs of the tenant 'demo', and create three "
        "jobs for them if it has none"
    )
    options = {
        "--simulate": help_text,
        "--device-tls": "also listen for devices with certificates, on 127.0.0.1:50052, and make "
        f"the certificate of {DEMO_DEVICE}",
    }
    arguments.add_options(add_local_command(commands, "dev", _dev), options)


def _dev(args: argparse.Namespace) -> None:
    """Run an embedded PostgreSQL, a demo fleet and the server.

    The tenant 'demo' has 1,000 devices in three groups, with labels. Serves until Ctrl-C. Data is
    kept in JOBS_DATA_DIR (default: a folder in the user's home, or in /var/lib for root). The
    settings of `serve` apply, except JOBS_DATABASE_URL and JOBS_OWNER_DATABASE_URL.

    jobs-grpc dev --simulate
    JOBS_DATA_DIR=/tmp/jobs JOBS_LISTEN=[::1]:50051 jobs-grpc dev --device-tls
    """
    # Other commands do not need the server, which takes a while to import.
    from jobs_grpc.server.run import serve

    data_dir = environment.data_dir()
    # Reject invalid settings before PostgreSQL starts; the real URLs are only known afterwards.
    placeholders = {"JOBS_DATABASE_URL": "postgresql://", "JOBS_OWNER_DATABASE_URL": ""}
    if args.device_tls:
        placeholders |= device_tls_settings(data_dir)
    config = Config.from_env(environment.default_settings() | os.environ | placeholders)
    if args.simulate and not _accepts_plain_calls(config):
        raise InvalidInput(
            "--simulate can't call a server with JOBS_AUTH=jwt or JOBS_TLS_CERT; use"
            " `jobs-grpc simulate` with a token or a certificate"
        )
    print(f"Starting PostgreSQL in {data_dir} …", file=sys.stderr)
    with interrupt_on_stop_signals(), embedded_postgres.running(data_dir) as cluster:
        try:
            run_until_stop_signal(environment.prepare_database(cluster))
        except MigrationError as e:
            raise CliError(
                f"{e}. To start with an empty database, move {data_dir} away or set JOBS_DATA_DIR"
            ) from None
        make_webhook_keys(cluster.data_dir)
        settings = environment.server_settings(cluster)
        if args.device_tls:
            make_device_tls(cluster.data_dir, DEMO_TENANT)
            settings |= device_tls_settings(cluster.data_dir)
        config = Config.from_env(settings)
        with ExitStack() as stack:

            def on_serving(address: str) -> None:
                print(_greeting(address, cluster, config, args), flush=True)
                if args.simulate:
                    stack.enter_context(start_simulated_fleet(address))

            serve(config, on_serving)
    print("PostgreSQL has stopped; its data is kept.", file=sys.stderr)


def _accepts_plain_calls(config: Config) -> bool:
    """Return whether calls need neither a token nor TLS."""
    return config.auth.mode == "metadata" and not config.tls.cert


def _greeting(
    address: str, cluster: embedded_postgres.Cluster, config: Config, args: argparse.Namespace
) -> str:
    webhooks = f"Webhooks: to {webhook_destinations(config.events)}"
    has_webhooks = config.events.webhook_keys_file
    return "\n".join(
        [
            "",
            f"Serving on {address}; the tenant {DEMO_TENANT} has {DEMO_DEVICE_COUNT:,} devices.",
            f"Groups:  {', '.join(DEMO_GROUPS)}",
            *(["Fleet:   simulated devices carry out the jobs"] if args.simulate else []),
            f"Data:    {cluster.data_dir}",
            f"SQL:     psql {shlex.quote(cluster.dsn(environment.DATABASE))}",
            f"Log:     {config.log.level} and higher, and the audit log"
            " (JOBS_LOG_LEVEL=INFO: each call)",
            *(textwrap.wrap(webhooks, 80, subsequent_indent=" " * 10) if has_webhooks else []),
            # The gateway calls the default address.
            *([_CONSOLE] if address == DEFAULT_ADDRESS else []),
            *([f"Metrics: http://{metrics}/metrics"] if (metrics := config.metrics.listen) else []),
            "",
            *_example_commands(address, config, args.simulate),
            *(_device_commands(cluster, config) if args.device_tls else []),
            "",
            "Press Ctrl-C to stop.",
            "",
        ]
    )


def _example_commands(address: str, config: Config, simulate: bool) -> list[str]:
    if not _accepts_plain_calls(config):
        # The commands would need the user's tokens and certificates.
        return ["Calls need a token or TLS, as in", f"{_DOCS}/authentication.md"]
    command = _program()
    options = f"--tenant {DEMO_TENANT}"
    if address != DEFAULT_ADDRESS:
        options += f" --server {address}"
    run_fleet = f"  {command} simulate {options} --devices {DEMO_DEVICE_COUNT}"
    return [
        "Try in another terminal:"
        if simulate
        else "Try in another terminal, and run the simulated fleet in a third one:",
        "",
        f"  {command} create {options} --type reboot --all --job-id try-1",
        f"  {command} list {options}",
        f"  {command} watch {options} try-1",
        *([] if simulate else [run_fleet]),
        "",
        "The tour continues from here, and the other page has grpcurl commands:",
        f"  {_DOCS}/tour.md",
        f"  {_DOCS}/reference/calls.md",
    ]


def _device_commands(cluster: embedded_postgres.Cluster, config: Config) -> list[str]:
    address = config.devices.listen
    files = '-cacert "$tls/ca.crt" -cert "$tls/device.crt" -key "$tls/device.key"'
    return [
        "",
        f"As {DEMO_DEVICE}, which a certificate identifies:",
        "",
        f"  tls={shlex.quote(str(device_tls_folder(cluster.data_dir)))}",
        f"  {_program()} whoami --server {address} \\",
        '    --ca "$tls/ca.crt" --cert "$tls/device.crt" --key "$tls/device.key"',
        f"  grpcurl {files} \\",
        f"    {address} fleet.jobs.v1.DeviceJobService/StartNextExecution",
        "",
        f"  {_DOCS}/device-certificates.md",
    ]


def _program() -> str:
    """Return this program as a shell finds it."""
    program = Path(sys.argv[0])
    found = shutil.which(program.name)
    is_on_path = found and program.exists() and program.samefile(found)
    return program.name if is_on_path else shlex.quote(sys.argv[0])
