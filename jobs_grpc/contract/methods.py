"""What the contract declares of its methods and pages: the options of options.proto."""

from dataclasses import dataclass

from fleet.jobs.v1 import device_jobs_pb2, events_pb2, fleet_pb2, jobs_pb2, options_pb2
from fleet.jobs.v1.options_pb2 import MethodRules
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.descriptor_pb2 import MethodOptions
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass


@dataclass(frozen=True, slots=True)
class Method:
    """The rules of a method."""

    summary: str
    roles: tuple[str, ...]
    """The roles that may call it."""
    repeatable: bool
    """It is safe to repeat, whatever its request."""
    audited: bool
    ignores_unknown_fields: bool
    """It accepts requests of newer clients: devices are often upgraded before servers."""
    unary: bool
    large_request: bool
    """JOBS_MAX_REQUEST_BYTES limits its requests."""
    paged: bool
    """It returns a page, or a stream of pages, of up to `page_size` items."""
    content_bytes: int
    """The maximum size of a response without the items of a page; 0: of one document."""


SERVICES = tuple(
    service
    for file in (
        *(jobs_pb2.DESCRIPTOR, fleet_pb2.DESCRIPTOR, events_pb2.DESCRIPTOR),
        device_jobs_pb2.DESCRIPTOR,
    )
    for service in file.services_by_name.values()
)
"""The services of the contract."""

_DESCRIPTORS = [method for service in SERVICES for method in service.methods]

_PAGE_SIZES = {
    GetMessageClass(method.input_type): (field.name, default)
    for method in _DESCRIPTORS
    for field in method.input_type.fields
    if (default := field.GetOptions().Extensions[options_pb2.default_page_size])
}


def _rules(method: MethodDescriptor) -> Method:
    options = method.GetOptions()
    rules = options.Extensions[options_pb2.method]
    permission = MethodRules.Permission.DESCRIPTOR.values_by_number[rules.permission].GetOptions()
    content = MethodRules.Content.DESCRIPTOR.values_by_number[rules.response].GetOptions()
    reads = options.idempotency_level == MethodOptions.NO_SIDE_EFFECTS
    return Method(
        summary=rules.summary,
        roles=tuple(permission.Extensions[options_pb2.roles]),
        repeatable=reads or options.idempotency_level == MethodOptions.IDEMPOTENT,
        audited=not reads and rules.permission != MethodRules.EXECUTE,
        ignores_unknown_fields=rules.permission == MethodRules.EXECUTE,
        unary=not (method.client_streaming or method.server_streaming),
        large_request=rules.large_request,
        paged=GetMessageClass(method.input_type) in _PAGE_SIZES,
        content_bytes=content.Extensions[options_pb2.max_bytes],
    )


ROLES = tuple(
    MethodRules.Permission.DESCRIPTOR.values_by_name["ANY"]
    .GetOptions()
    .Extensions[options_pb2.roles]
)
"""The roles of callers."""

METHODS = {f"/{m.containing_service.full_name}/{m.name}": _rules(m) for m in _DESCRIPTORS}
"""The methods of the contract by the names that gRPC uses: "/package.Service/Method"."""


def page_size(request: Message) -> int:
    """The maximum number of items that a request asks for, by default or explicitly."""
    field, default = _PAGE_SIZES[type(request)]
    size: int = getattr(request, field) if request.HasField(field) else default
    return size
