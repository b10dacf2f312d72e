"""The operations of the OpenAPI document."""

import re

from jobs_grpc.contract.methods import METHODS
from tools.openapi.errors import error_responses, without_errors
from tools.openapi.parts import EXAMPLES, PARTS, Json, ref_name, ref_to
from tools.openapi.schemas import allow_empty, fields_of, limits_of

_SUMMARIES = {path.rpartition("/")[2]: method.summary for path, method in METHODS.items()}


def convert_operation(path: str, operation: Json, schemas: Json) -> None:
    """Convert an operation, whose response in Swagger is 200."""
    rpc = id_ = operation["operationId"]
    paragraphs = (operation.get("summary", ""), operation.get("description", ""))
    operation["description"] = without_errors("\n\n".join(paragraphs).strip())
    operation["summary"] = _SUMMARIES.get(rpc)
    if route := PARTS["additional_routes"].get(rpc):
        rpc, id_ = rpc.removesuffix("2"), route["id"]
        # x-rpc is the method that the gateway calls.
        operation |= {"operationId": id_, "summary": route["summary"], "x-rpc": rpc}
    role = "device" if path.startswith("/device/") else "operator"
    operation |= {"tags": [_tag(path)], "security": PARTS["security"][role]}
    given = operation.get("parameters", [])
    operation["parameters"] = [_parameter(rpc, p) for p in given if p["in"] != "body"]
    for body in given:
        if body["in"] == "body":
            operation["requestBody"] = _body(id_, body["schema"], schemas)
    if stream := PARTS["streams"].get(rpc):
        operation["description"] = stream["description"]
        operation["summary"] += " (Server-Sent Events)"
        operation["parameters"].append(PARTS["last_event_id"])
        success = stream["responses"]
    else:
        success = _success(rpc, id_, operation["responses"]["200"])
    operation["responses"] = error_responses(rpc, operation) | success


def _tag(path: str) -> str:
    if path.startswith("/device/"):
        return "device"
    if path.startswith("/customer/fleet"):
        return "fleet"
    return "events" if re.search("/events(:watch)?$|^/customer/webhooks", path) else "jobs"


def _body(id_: str, schema: Json, schemas: Json) -> Json:
    content = {"schema": schema}
    if (request := EXAMPLES.get(id_, {}).get("request")) is not None:
        content["example"] = request
    # A body is required if one of its fields is.
    is_required = "required" in schemas[ref_name(schema)]
    return {"required": is_required, "content": {"application/json": content}}


def _parameter(rpc: str, parameter: Json) -> Json:
    """Move the type of a parameter to its schema, and add its limits."""
    parameter.pop("collectionFormat", None)  # "multi" is the default in OpenAPI 3.0
    keywords = [key for key in ("type", "format", "enum", "items") if key in parameter]
    schema: Json = {key: parameter.pop(key) for key in keywords}
    field = fields_of(rpc + "Request")[parameter["name"]]
    schema |= limits_of(field)
    if "STATUS_UNSPECIFIED: all" in parameter["description"]:
        schema["enum"] = ["STATUS_UNSPECIFIED", *schema["enum"]]
    schema |= PARTS["overrides"].get(field.full_name, {})
    if parameter["in"] == "query":
        allow_empty(field, schema)
        schema.pop("minLength", None)  # an empty value counts as absent
    return parameter | {"schema": schema}


def _success(rpc: str, id_: str, ok: Json) -> Json:
    """Return the 2xx response of an operation, by its status."""
    request_id = {"X-Request-Id": ref_to("headers", "RequestId")}
    headers = dict(request_id)
    status = "201" if id_ in ("CreateJob", "CreateWebhook") else "200"
    if status == "201":
        headers["Location"] = ref_to("headers", "Location")
    elif id_ == "GetJob" or "next_page_token" in fields_of(rpc + "Response"):
        headers["X-Next-Page-Token"] = ref_to("headers", "NextPageToken")
        headers["Link"] = ref_to("headers", "Link")
    if id_ in ("ListPendingExecutions", "StartNextExecution"):
        headers["X-Poll-After"] = ref_to("headers", "PollAfter")
    if id_ == "ListPendingExecutions":
        headers["X-Ended-Executions"] = ref_to("headers", "EndedExecutions")
    content = {"schema": ok["schema"]}
    typical = PARTS["typical_operations"].get(ref_name(ok["schema"]), "")
    recorded = EXAMPLES.get(id_) or EXAMPLES.get(typical) or {}
    if (example := recorded.get("response")) is not None:
        content["example"] = example
    media = {"application/json": content}
    response = {"description": ok["description"], "headers": headers, "content": media}
    if id_ != "CreateJob":
        return {status: response}
    response["links"] = PARTS["create_job_links"]
    description = "With validate_only: what would be created."
    checked = {"description": description, "headers": request_id, "content": media}
    return {"200": checked, status: response}
