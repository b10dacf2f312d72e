"""The schemas of messages and parameters in the OpenAPI document."""

import copy
import re
from typing import Any

from buf.validate import validate_pb2
from fleet.jobs.v1 import options_pb2
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import FieldDescriptor

from tools.openapi.parts import PARTS, SCHEMAS, Json, objects, ref_name

_INPUT = "Input"
_ENUM_VALUES = re.compile(r"\n\n - [A-Z_]+: .*$", re.DOTALL)

# The keywords of schemas for the rules of strings, numbers and lists.
_KEYWORDS = {
    "min_len": "minLength",
    "max_len": "maxLength",
    "pattern": "pattern",
    "gte": "minimum",
    "lte": "maximum",
    "max_items": "maxItems",
}


def convert_schemas(schemas: Json, paths: Json) -> None:
    """Convert the schemas of messages, and the references to enums in paths."""
    for root in (schemas, paths):
        _inline_enums(schemas, root)
    # A response has every field, and a request requires only a few, so messages that occur in
    # requests, such as Rollout, have schemas of their own.
    for name in list(schemas):
        if _is_request(name):
            _use_inputs(schemas, schemas[name])
    for name, schema in schemas.items():
        _convert(name, schema)
    for schema in schemas.values():
        for property_ in schema.get("properties", {}).values():
            if property_.get("nullable"):
                _allow_null(schemas, property_)


def _inline_enums(schemas: Json, root: Json) -> None:
    """Replace references to enums by the enums.

    For a shared enum, the Go generator names constants after the values alone, and two enums have
    the value IN_PROGRESS.
    """
    for value in objects(root):
        schema = schemas.get(ref_name(value))
        if not schema:
            continue
        value.pop("type", None)  # the plugin writes a type next to the $ref of array items
        if "enum" in schema:
            del value["$ref"]
            value |= {"type": "string", "enum": schema["enum"]}
            if m := _ENUM_VALUES.search(schema["description"]):
                value["description"] = (value.get("description", "") + m[0]).strip()


def _use_inputs(schemas: Json, schema: Json) -> None:
    for value in objects(schema):
        name = ref_name(value)
        if "properties" not in schemas.get(name, {}):
            continue
        value["$ref"] = SCHEMAS + name + _INPUT
        if name + _INPUT not in schemas:
            schemas[name + _INPUT] = copy.deepcopy(schemas[name])
            _use_inputs(schemas, schemas[name + _INPUT])


def _is_request(schema: str) -> bool:
    """Report whether a schema describes a request or a part of one."""
    return schema.endswith(("Request", "Body", _INPUT))


def fields_of(schema: str) -> dict[str, FieldDescriptor]:
    """Return the fields of the message that a schema describes, by name.

    A body has those that are not in the path.
    """
    name = re.sub("Body$", "Request", schema.removesuffix(_INPUT))
    try:
        message = descriptor_pool.Default().FindMessageTypeByName("fleet.jobs.v1." + name)
    except KeyError:
        return {}  # document.yaml has the schema
    return dict(message.fields_by_name)


def _convert(name: str, schema: Json) -> None:
    """Add which properties are required, which may be null, and their limits.

    Requests have no other properties; responses may get more in a later version.
    """
    properties = schema.get("properties", {})
    fields = fields_of(name)
    if fields and (unknown := properties.keys() - fields.keys()):
        raise SystemExit(f"{name} has no field {min(unknown)}: run `make generate` first")
    required = []
    for field in fields.values():
        if field.name not in properties:
            continue
        is_required, is_nullable = _presence(name, field)
        if is_required:
            required.append(field.name)
        _convert_property(name, field, properties[field.name])
        if is_nullable:
            properties[field.name]["nullable"] = True
    if _is_request(name):
        schema["additionalProperties"] = False
        properties.pop(
            "never_expires", None
        )  # null in expires_in_hours is how a REST client sets it
    if required:
        schema["required"] = required


def _presence(schema: str, field: FieldDescriptor) -> tuple[bool, bool]:
    """Return whether a property is required in a request or always in a response, and may be null.

    In a request, null means absent. In a response, as restjson writes it, an unset field is null,
    or false if it is a bool of a oneof, or left out.
    """
    if _is_request(schema):
        return rules_of(field).required, not rules_of(field).required
    oneof = field.containing_oneof
    is_false = field.type == field.TYPE_BOOL and oneof and not oneof.name.startswith("_")
    omitted = PARTS["omitted"].get(field.full_name)
    return not omitted, field.has_presence and not is_false and omitted != "if empty"


def _convert_property(schema: str, field: FieldDescriptor, property_: Json) -> None:
    if "title" in property_:  # the plugin takes a first line without a period for a title
        parts = (property_.pop("title"), property_.get("description", ""))
        property_["description"] = "\n\n".join(parts).strip()
    if field.message_type and field.message_type.full_name == "google.protobuf.Struct":
        property_["additionalProperties"] = True
    if examples := rules_of(field).string.example:
        property_["x-extensible-enum"] = list(examples)  # later versions can add values
    if _is_request(schema):
        property_ |= limits_of(field)
        allow_empty(field, property_)
        property_ |= PARTS["overrides"].get(field.full_name, {})
    if "$ref" in property_:  # OpenAPI 3.0 ignores everything next to a $ref
        property_["allOf"] = [{"$ref": property_.pop("$ref")}]
        property_["type"] = "object"  # "nullable" needs it


def _allow_null(schemas: Json, property_: Json) -> None:
    """Make null valid in the schema that a property refers to, and in the enum that it lists."""
    if "allOf" in property_:
        schemas[ref_name(property_["allOf"][0])]["nullable"] = True
    if "enum" in property_:
        property_["enum"] = [*property_["enum"], None]


def rules_of(field: FieldDescriptor) -> validate_pb2.FieldRules:
    """Return the limits that the contract declares for a field."""
    return field.GetOptions().Extensions[validate_pb2.field]


def limits_of(field: FieldDescriptor) -> Json:
    """Return the limits of a field of a request as keywords of its schema."""
    rules = rules_of(field)
    limits = _value_limits(field, rules)
    if size := field.GetOptions().Extensions[options_pb2.default_page_size]:
        limits["default"] = size
    if rules.HasField("repeated"):
        if rules.required:
            limits["minItems"] = 1
        if items := _value_limits(field, rules.repeated.items):
            limits["items"] = items | {"type": "string"}
    if (oneof := field.containing_oneof) and field.type == field.TYPE_STRING:
        # An empty member of a required oneof counts as unset.
        limits |= (
            {"minLength": 1} if oneof.GetOptions().Extensions[validate_pb2.oneof].required else {}
        )
    return limits


def allow_empty(field: FieldDescriptor, limits: Json) -> None:
    """Let an empty value count as absent."""
    if rules_of(field).ignore == validate_pb2.IGNORE_IF_ZERO_VALUE:
        limits.pop("minLength", None)
        if "pattern" in limits:
            limits["pattern"] = limits["pattern"].replace("{1,", "{0,", 1)


def _value_limits(field: FieldDescriptor, rules: validate_pb2.FieldRules) -> Json:
    """Return the limits of a single value."""
    limits: Json = {}
    for kind, of_kind in rules.ListFields():
        if kind.message_type and kind.name != "int64":  # which is a string in JSON
            limits |= _keywords(of_kind)
    if others := rules.string.not_in:
        limits["not"] = {"enum": list(others)}
    if rules.HasField("int64"):
        limits["pattern"] = "^[0-9]{1,16}$"
    if field.enum_type and (numbers := getattr(rules.enum, "in")):
        limits["enum"] = [field.enum_type.values_by_number[number].name for number in numbers]
    if rules.HasField("duration"):
        limits |= {"pattern": "^[0-9]{1,7}s$", "example": "3600s"}
    if paths := getattr(rules.field_mask, "in"):
        path = "(" + "|".join(paths).replace(".", r"\.") + ")"
        limits["pattern"] = f"^{path}(,{path})*$"
    return limits


def _keywords(rules: Any) -> Json:
    return {
        _KEYWORDS[rule.name]: value
        for rule, value in rules.ListFields()
        if rule.name in _KEYWORDS and not rule.message_type
    }
