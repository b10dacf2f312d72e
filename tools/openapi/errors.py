"""The responses of the OpenAPI document that are not 2xx."""

import json
import re
from collections import Counter, defaultdict

from google.protobuf.descriptor_pb2 import FileDescriptorSet

from tools.errors_reference import CONTRACT, HTTP_STATUSES, reasons
from tools.openapi.parts import FOLDER, PARTS, Json, ref_to

_GATEWAY_ERRORS = {error["reason"]: error for error in PARTS["gateway_errors"]}

_MEANINGS = {
    reason.name: " ".join(reason.comment.partition("\n\n")[0].split()) for reason in reasons()
} | {name: error["meaning"] for name, error in _GATEWAY_ERRORS.items()}

_ERROR_LINE = re.compile(r" {2,}([A-Z_]+) {2,}(\S.*)$")
_REASON = re.compile(r"\b[A-Z]+_[A-Z_]+\b|^[A-Z]{5,}\b")


def _errors(comment: str) -> dict[str, set[str]]:
    """Return the reasons by status of lines such as "  NOT_FOUND   JOB_NOT_FOUND, only if …".

    A line may continue on the next line.
    """
    found: dict[str, set[str]] = defaultdict(set)
    status = ""
    for line in re.sub("^ ", "", comment, flags=re.MULTILINE).split("\n"):
        text = line.strip()
        if (m := _ERROR_LINE.match(line)) and m[1] in HTTP_STATUSES:
            status, text = m.groups()
        elif not text or not line.startswith(" " * 10):
            status = ""
        if status:
            names = _REASON.findall(text.partition(":")[0])  # an explanation follows the colon
            found[status] |= {name for name in names if not name.startswith("JOBS_")}
    return found


def without_errors(comment: str) -> str:
    """Return a comment without its error lines, which become responses."""
    kept = []
    in_errors = False
    for line in comment.split("\n"):
        m = _ERROR_LINE.match("  " + line)
        in_errors = bool(m and m[1] in HTTP_STATUSES) or (in_errors and line.startswith(" "))
        if not in_errors:
            kept.append(line)
    return "\n".join(kept).strip()


def _method_errors() -> dict[str, dict[str, set[str]]]:
    """Return the reasons of each method by status, with those that all methods share."""
    services: dict[str, tuple[str, dict[str, str]]] = {}
    for file in FileDescriptorSet.FromString(CONTRACT.read_bytes()).file:
        comments = {tuple(at.path): at.leading_comments for at in file.source_code_info.location}
        services |= {
            service.name: (
                comments[6, index],
                {m.name: comments[6, index, 2, i] for i, m in enumerate(service.method)},
            )
            for index, service in enumerate(file.service)
        }
    found: dict[str, dict[str, set[str]]] = {}
    common: dict[str, set[str]] = {}
    # Common errors accumulate: each service adds its own to those of the services before it.
    for name in ("JobService", "FleetService", "EventService", "DeviceJobService"):
        # A service first lists the errors of every call, and then those of streams.
        of_service = _errors(services[name][0].partition("In addition, a stream")[0])
        common = _merged(common, of_service)
        for method, comment in services[name][1].items():
            found[method] = _merged(common, _errors(comment))
    return found


def _merged(a: dict[str, set[str]], b: dict[str, set[str]]) -> dict[str, set[str]]:
    return {status: a.get(status, set()) | b.get(status, set()) for status in a.keys() | b.keys()}


_METHOD_ERRORS = _method_errors()


def error_responses(rpc: str, operation: Json) -> Json:
    """Return the responses of an operation that are not 2xx, by status."""
    found: dict[int, set[str]] = defaultdict(set)
    for name, names in _METHOD_ERRORS[rpc].items():
        found[HTTP_STATUSES[name]] |= names
    if "requestBody" in operation:  # a body that is too large after its conversion to protobuf
        found[413].add("LIMIT_EXCEEDED")
    conditions = {
        "all": True,
        "body": "requestBody" in operation,
        "path": any(parameter["in"] == "path" for parameter in operation["parameters"]),
    }
    for error in _GATEWAY_ERRORS.values():
        if conditions[error.get("if", "all")]:
            found[error["status"]].add(error["reason"])
    return {str(status): _response(status, sorted(names)) for status, names in found.items()}


def _response(status: int, names: list[str]) -> Json:
    headers = {"X-Request-Id": ref_to("headers", "RequestId")}
    if status == 401:
        headers["WWW-Authenticate"] = ref_to("headers", "Authenticate")
    elif status == 405:
        headers["Allow"] = ref_to("headers", "Allow")
    elif status in (429, 503):
        headers["Retry-After"] = ref_to("headers", "RetryAfter")
    content = {
        "schema": ref_to("schemas", "ApiError"),
        "examples": {name: ref_to("examples", name) for name in names},
    }
    lines = [PARTS["statuses"][status]["title"], "", *(f"- `{n}`: {_MEANINGS[n]}" for n in names)]
    return {
        "description": "\n".join(lines),
        "headers": headers,
        "content": {"application/json": content},
    }


def error_examples() -> Json:
    """Return an example of each error by its reason, which the responses refer to."""
    samples: Json = json.loads((FOLDER / "sample_errors.json").read_text("utf-8"))
    for name, error in _GATEWAY_ERRORS.items():
        samples[name] = {"detail": error["detail"], "code": error["code"]}
    return {
        name: {
            "summary": _MEANINGS[name].partition(". ")[0].removesuffix(".") + ".",
            "value": {
                "field_violations": [],
                **sample,
                "reason": name,
                "request_id": "U3KH5RYN2QWLJCVMFQ6TLOJ7PE",
            },
        }
        for name, sample in samples.items()
    }


def share_responses(paths: Json) -> Json:
    """Replace responses that five operations have in common by references, and return them."""
    all_responses = [
        (status, json.dumps(response, sort_keys=True), operation["responses"])
        for operations in paths.values()
        for operation in operations.values()
        for status, response in operation["responses"].items()
    ]
    uses = Counter(text for _, text, _ in all_responses)
    shared: dict[str, str] = {}
    for status, text, responses in all_responses:
        name = PARTS["statuses"].get(int(status), {}).get("shared", "")
        if not name or uses[text] < 5:
            continue
        if "DEVICE_REQUIRED" in text:
            name = "Device" + name
        if shared.setdefault(name, text) == text:  # otherwise another response has the name
            responses[status] = ref_to("responses", name)
    return {name: json.loads(text) for name, text in shared.items()}
