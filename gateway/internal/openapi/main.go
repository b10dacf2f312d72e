// Command openapi converts the Swagger 2.0 document of protoc-gen-openapiv2 (stdin) to the
// OpenAPI 3.0 document of the REST API (stdout). It adds what the contract does not define:
// status 201, headers, errors, null values, and which request bodies are optional.
package main

import (
	"encoding/json"
	"log"
	"os"
	"strings"
)

const packagePrefix = "fleet.jobs.v1."

// object is a JSON object. Its members are written in alphabetical order.
type object = map[string]any

func main() {
	var swagger object
	if err := json.NewDecoder(os.Stdin).Decode(&swagger); err != nil {
		log.Fatal(err)
	}
	out := json.NewEncoder(os.Stdout)
	out.SetEscapeHTML(false)
	out.SetIndent("", "  ")
	if err := out.Encode(moveRefs(convert(swagger))); err != nil {
		log.Fatal(err)
	}
}

func convert(swagger object) object {
	schemas := object{"Error": errorSchema}
	for name, schema := range swagger["definitions"].(object) {
		schemas[name] = convertSchema(name, schema.(object))
	}
	for _, name := range unwrappedResponses {
		delete(schemas, name)
	}
	paths := object{}
	for path, item := range swagger["paths"].(object) {
		operations := object{}
		for method, operation := range item.(object) {
			operations[method] = convertOperation(path, operation.(object))
		}
		paths[path] = operations
	}
	return object{
		"openapi":  "3.0.3",
		"info":     info,
		"paths":    paths,
		"security": security,
		"components": object{
			"schemas":         schemas,
			"parameters":      headerParameters,
			"responses":       responses,
			"securitySchemes": securitySchemes,
		},
	}
}

// moveRefs points every $ref to the place of schemas in OpenAPI 3.0.
func moveRefs(value any) any {
	switch value := value.(type) {
	case object:
		for key, member := range value {
			if ref, ok := member.(string); ok && key == "$ref" {
				// The plugin writes a type next to the $ref of array items.
				delete(value, "type")
				value[key] = strings.Replace(ref, "#/definitions/", "#/components/schemas/", 1)
				continue
			}
			value[key] = moveRefs(member)
		}
	case []any:
		for i, member := range value {
			value[i] = moveRefs(member)
		}
	}
	return value
}

func refTo(parameter string) object {
	return object{"$ref": "#/components/parameters/" + parameter}
}

func stringHeader(description string) object {
	return object{"description": description, "schema": object{"type": "string"}}
}
