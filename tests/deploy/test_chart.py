"""The Helm chart gives the server and the gateway settings that they accept."""

import ipaddress
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs_grpc.config import Config
from jobs_grpc.webhooks.addresses import AllowedAddresses
from tools import check_deploy
from tools.check_deploy import CheckFailed

CHART = check_deploy.TOOLS.parent / "deploy" / "helm" / "jobs-grpc"
EXAMPLES = sorted(CHART.glob("ci/*-values.yaml"))

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("tools")]


def render(*options: str | Path, release: str = "jobs") -> list[dict[str, Any]]:
    text = check_deploy.helm("template", release, CHART, "--kube-version", "1.34.0", *options)
    return list(yaml.safe_load_all(text))


def named(objects: list[dict[str, Any]], kind: str, name: str = "jobs") -> dict[str, Any]:
    """Return the only object of a kind with a name."""
    (found,) = [o for o in objects if o["kind"] == kind and o["metadata"]["name"] == name]
    return found


def environment(objects: list[dict[str, Any]], container: str) -> dict[str, str] | None:
    for item in objects:
        if item["kind"] == "Deployment":
            (found,) = item["spec"]["template"]["spec"]["containers"]
            if found["name"] == container:
                secret = "postgresql://user:password@database/jobs"
                return {entry["name"]: entry.get("value", secret) for entry in found["env"]}
    return None


@pytest.mark.parametrize("values", EXAMPLES, ids=lambda path: path.stem)
def test_server_accepts_its_settings(values: Path) -> None:
    environ = environment(render("--values", values), "server")

    assert environ
    config = Config.from_env(environ)
    assert config.server.listen == "0.0.0.0:50051"


@pytest.mark.parametrize("values", EXAMPLES, ids=lambda path: path.stem)
def test_gateway_accepts_its_settings(values: Path, gateway_binary: Path) -> None:
    environ = environment(render("--values", values), "gateway")

    if environ is None:
        assert "gateway: {enabled: false}" in values.read_text()
        return
    assert environ["JOBS_GATEWAY_LISTEN"] == "0.0.0.0:8080"
    # A gateway may run on port 8080.
    check_accepts(gateway_binary, environ | {"JOBS_GATEWAY_LISTEN": "127.0.0.1:1"})


def check_accepts(gateway_binary: Path, environ: dict[str, str]) -> None:
    """Check the health of a gateway: with valid settings, that fails because nothing listens."""
    command: list[str | Path] = [gateway_binary, "health"]
    result = subprocess.run(command, env=environ, capture_output=True, check=False)  # noqa: S603
    assert result.returncode == 1, result.stderr


def test_gateway_that_trusts_any_client_accepts_only_the_names_of_its_service(
    gateway_binary: Path,
) -> None:
    options = "auth.mode=insecureMetadata,database.secretName=s,networkPolicy.enabled=false"
    objects = render(f"--set={options}", "--namespace=fleet")
    environ = environment(objects, "gateway") or {}

    assert environ["JOBS_GATEWAY_ALLOWED_HOSTS"].split(",") == [
        "jobs-gateway" + suffix
        for suffix in ("", ".fleet", ".fleet.svc", ".fleet.svc.cluster.local")
    ]
    # Also beyond loopback.
    check_accepts(gateway_binary, environ | {"JOBS_GATEWAY_LISTEN": "0.0.0.0:1"})


def test_webhooks_have_their_keys_and_an_egress_rule() -> None:
    objects = render("--values", CHART / "ci" / "trusted-peers-values.yaml")

    config = Config.from_env(environment(objects, "server") or {})
    assert config.events.webhook_keys_file == "/webhooks/webhooks.keys"
    assert config.events.webhook_allowed_ports == (443, 8443)
    volumes = named(objects, "Deployment")["spec"]["template"]["spec"]["volumes"]
    (volume,) = [volume for volume in volumes if volume["name"] == "webhooks"]
    # The server refuses a file that every user can read.
    assert volume["secret"]["defaultMode"] == 0o440
    egress = named(objects, "NetworkPolicy")["spec"]["egress"]
    (rule,) = [rule for rule in egress if "to" in rule]
    assert rule["ports"] == [{"port": 443}, {"port": 8443}]
    blocks = [peer["ipBlock"] for peer in rule["to"]]
    assert [block["cidr"] for block in blocks] == [
        *("0.0.0.0/0", "2000::/3", "10.1.0.0/16", "fd00:1::/64")
    ]
    assert [str(network) for network in config.events.webhook_allowed_networks] == [
        *("10.1.0.0/16", "fd00:1::/64")
    ]
    addresses = AllowedAddresses()
    for block in blocks[:2]:
        for network in map(ipaddress.ip_network, block["except"]):
            assert not addresses.allows(network[0])
            assert not addresses.allows(network[-1])


@pytest.mark.parametrize(
    ("example", "authorities", "certificate"),
    [
        ("jwt", {"JOBS_DEVICE_CA": "/devices/ca.crt"}, "/tls/tls.crt"),
        ("trusted-peers", {"JOBS_DEVICE_CA_DIR": "/devices"}, "/devices-tls/tls.crt"),
    ],
)
def test_devices_have_an_address_with_their_authorities(
    example: str, authorities: dict[str, str], certificate: str
) -> None:
    objects = render(f"--values={CHART}/ci/{example}-values.yaml")

    environ = environment(objects, "server") or {}
    assert environ.items() >= authorities.items()
    devices = Config.from_env(environ).devices
    assert devices.listen == "0.0.0.0:50052"
    assert (devices.cert or environ["JOBS_TLS_CERT"]) == certificate
    pod = named(objects, "Deployment")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert {volume["name"] for volume in pod["volumes"]} == set(mounts)
    assert mounts["devices"] == "/devices"
    assert certificate.rpartition("/")[0] in mounts.values()
    (port,) = named(objects, "Service", "jobs-devices")["spec"]["ports"]
    assert {"name": port["targetPort"], "containerPort": 50052} in container["ports"]
    ingress = named(objects, "NetworkPolicy")["spec"]["ingress"]
    assert {"ports": [{"port": "devices"}]} in ingress


@pytest.mark.parametrize("networks", [[], ["10.2.0.0/16"]])
def test_token_keys_do_not_allow_webhooks_to_private_addresses(networks: list[str]) -> None:
    options = [f"--set=auth.jwksNetworks={{{','.join(networks)}}}"] if networks else []
    values = CHART / "ci" / "jwt-values.yaml"
    objects = render(f"--values={values}", "--set=webhooks.secretName=hooks", *options)

    egress = named(objects, "NetworkPolicy")["spec"]["egress"]
    keys, webhooks = (rule for rule in egress if {"port": 443} in rule["ports"])
    public = [peer["ipBlock"] for peer in webhooks["to"]]
    expected = [{"cidr": network} for network in networks] or public
    assert [peer["ipBlock"] for peer in keys["to"]] == expected
    assert "10.0.0.0/8" in public[0]["except"]


def test_secrets_are_only_references() -> None:
    for values in EXAMPLES:
        for item in render("--values", values):
            assert item["kind"] != "Secret"


@pytest.mark.parametrize(
    ("release", "override", "name"),
    [
        ("jobs", "", "jobs"),
        ("jobs-grpc", "", "jobs-grpc"),
        ("fleet-jobs", "", "fleet-jobs"),
        ("prod", "", "prod-jobs-grpc"),
        ("prod", "fleet", "fleet"),
        ("a" * 53, "", "a" * 40),
        ("a" * 39 + "-b", "", "a" * 39),
    ],
)
def test_objects_are_named_after_the_release(release: str, override: str, name: str) -> None:
    values = CHART / "ci" / "jwt-values.yaml"
    objects = render(f"--values={values}", f"--set=fullnameOverride={override}", release=release)

    names = {item["metadata"]["name"] for item in objects if item["kind"] == "Deployment"}
    assert names == {name, f"{name}-gateway"}
    assert max(len(item["metadata"]["name"]) for item in objects) <= 63


def test_ingress_routes_its_host_to_the_gateway() -> None:
    objects = render("--values", CHART / "ci" / "ingress-values.yaml")

    (ingress,) = [item for item in objects if item["kind"] == "Ingress"]
    (rule,) = ingress["spec"]["rules"]
    (path,) = rule["http"]["paths"]
    assert rule["host"] == "jobs.example.com"
    assert ingress["spec"]["tls"] == [
        {"hosts": ["jobs.example.com"], "secretName": "jobs-example-com-tls"}
    ]
    backend = path["backend"]["service"]
    service = named(objects, "Service", backend["name"])
    assert backend["port"]["name"] in {port["name"] for port in service["spec"]["ports"]}


@pytest.mark.parametrize("values", EXAMPLES, ids=lambda path: path.stem)
def test_notes_name_the_addresses(values: Path, tmp_path: Path) -> None:
    # Without a cluster, helm does not print the notes: a copy of the chart has them in an object.
    copy = shutil.copytree(CHART, tmp_path / "jobs-grpc")
    notes = (copy / "templates" / "NOTES.txt").read_text()
    template = '{{ define "notes" }}%s{{ end }}\nnotes: {{ include "notes" . | quote }}\n'
    (copy / "templates" / "notes.yaml").write_text(template % notes)
    options = ("--kube-version=1.34.0", "--show-only=templates/notes.yaml", "--values", values)
    printed = yaml.safe_load(check_deploy.helm("template", "jobs", copy, *options))["notes"]

    assert "jobs.default.svc:50051" in printed
    assert "exec deployment/jobs -- jobs-grpc doctor" in printed
    text = values.read_text()
    assert ("jobs-gateway.default.svc" in printed) == ("gateway: {enabled: false}" not in text)
    assert ("https://jobs.example.com\n" in printed) == ("ingress:" in text)
    assert ("WARNING" in printed) == ("insecureMetadata" in text)


METADATA = "auth.mode=insecureMetadata"
INGRESS = (
    "gateway.ingress.enabled=true,gateway.ingress.host=a.example,tlsTerminatedByProxy=true,"
    "auth.jwt.keys=https://a,auth.jwt.issuer=a,auth.jwt.audience=a,"
)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ("auth.mode=", "/auth/mode"),
        (f"{METADATA},database.secretName=", "/database/secretName"),
        ("auth.mode=trustedPeers", "auth.trustedPeers is required"),
        ("auth.mode=trustedPeers,auth.trustedPeers={a}", "client certificates need"),
        ("auth.mode=jwt", "auth.jwt.keys is required"),
        (f"{METADATA},server.settings.JOBS_LISTEN=x", "JOBS_LISTEN"),
        (f"{METADATA},server.replica=3", "replica"),
        (f"{METADATA},fullnameOverride={'a' * 41}", "fullnameOverride"),
        (f"{METADATA},devices.caSecretName=a", "devices needs devices.tlsSecretName"),
        (f"{INGRESS}{METADATA}", "any tenant"),
        (f"{INGRESS}auth.mode=jwt", "networkPolicy.gatewayFrom"),
        (
            f"{INGRESS}auth.mode=jwt,networkPolicy.enabled=false,gateway.enabled=false",
            "gateway.enabled",
        ),
        (
            f"{INGRESS}auth.mode=jwt,networkPolicy.enabled=false,gateway.ingress.host=",
            "gateway.ingress.host",
        ),
    ],
)
def test_chart_rejects_values_that_cannot_work(values: str, message: str) -> None:
    with pytest.raises(CheckFailed, match=message):
        render("--set=database.secretName=s", f"--set={values}")
