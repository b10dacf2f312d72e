"""Converts the Swagger 2.0 document of protoc-gen-openapiv2 (stdin) to the OpenAPI 3.0 document.

`make generate-gateway` runs this. It adds what the plugin can't know: status 201, headers, null
values, which request bodies are optional, examples, the limits that the contract declares, and a
response for each HTTP status with the error reasons that the comments list.
"""

import json
import sys

from tools.openapi.errors import error_examples, share_responses
from tools.openapi.operations import convert_operation
from tools.openapi.parts import DOCUMENT, SCHEMAS, Json, remove_unused
from tools.openapi.schemas import convert_schemas


def convert(swagger: Json) -> Json:
    """Return the OpenAPI document. It changes the Swagger document."""
    components = DOCUMENT["components"]
    schemas = components["schemas"] = components["schemas"] | swagger["definitions"]
    paths = swagger["paths"]
    convert_schemas(schemas, paths)
    for path, operations in paths.items():
        for operation in operations.values():
            convert_operation(path, operation, schemas)
    responses = share_responses(paths)
    remove_unused(schemas, paths)
    examples = error_examples()
    remove_unused(examples, paths, responses)
    components |= {"responses": responses, "examples": examples}
    return DOCUMENT | {"paths": paths}


if __name__ == "__main__":
    document = convert(json.loads(sys.stdin.read().replace("#/definitions/", SCHEMAS)))
    print(json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False))
