"""The README keeps up with the code."""

import re
from pathlib import Path

from fleet.jobs.v1 import device_jobs_pb2, error_reason_pb2, jobs_pb2

from jobs_grpc.config import describe_settings

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_it_lists_every_setting_as_serve_help_does() -> None:
    rows = re.findall(r"^\| `(JOBS_\w+)` \| (\S+) \| (.*) \|$", README, re.MULTILINE)

    expected = [
        (name, f"`{default}`" if default else "required", meaning.removesuffix(" (required)"))
        for name, default, meaning in describe_settings()
    ]
    assert [(name, default, _plain(meaning)) for name, default, meaning in rows] == expected


def _plain(text: str) -> str:
    """Without the markup for links and code."""
    return re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", text).replace("`", "")


def test_it_lists_every_call() -> None:
    section = README.partition("## The calls")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|", section, re.MULTILINE)

    calls = [name for row in rows for name in re.findall(r"\w+", row)]
    services = (
        jobs_pb2.DESCRIPTOR.services_by_name["JobService"],
        device_jobs_pb2.DESCRIPTOR.services_by_name["DeviceJobService"],
    )
    assert sorted(calls) == sorted(m.name for service in services for m in service.methods)


def test_it_lists_every_error_reason() -> None:
    table = README.partition("## Errors")[2]

    for reason in error_reason_pb2.ErrorReason.keys()[1:]:
        assert f"`{reason}`" in table


def test_links_lead_somewhere() -> None:
    for page in (
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        ROOT / "SECURITY.md",
        *ROOT.glob("docs/**/*.md"),
    ):
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"
