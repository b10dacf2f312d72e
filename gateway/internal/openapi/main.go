// Command openapi converts the Swagger 2.0 document of protoc-gen-openapiv2 (stdin) to the
// OpenAPI 3.0 document of the REST API (stdout). Its argument is the contract as a file descriptor
// set with source info.
//
// It adds what the plugin can't know: status 201, headers, null values, which request bodies are
// optional, examples, the limits that the contract declares, and a response for each
// HTTP status with the error reasons that the comments list.
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
	if err := out.Encode(moveRefs(convert(swagger, readContract(os.Args[1])))); err != nil {
		log.Fatal(err)
	}
}

func convert(swagger object, c *contract) object {
	definitions := swagger["definitions"].(object)
	schemas := object{"ApiError": errorSchema, "FieldViolation": fieldViolationSchema}
	for name, schema := range definitions {
		schemas[name] = schema
	}
	inlineEnums(schemas, swagger)
	addInputSchemas(schemas)
	for name, schema := range schemas {
		schemas[name] = convertSchema(name, schema.(object))
	}
	markNullable(schemas)
	paths := object{}
	for path, item := range swagger["paths"].(object) {
		operations := object{}
		for method, operation := range item.(object) {
			operations[method] = convertOperation(path, operation.(object), schemas, c)
		}
		paths[path] = operations
	}
	shareResponses(paths)
	removeUnused(schemas, paths)
	examples := errorExamples(c)
	removeUnused(examples, paths, responses)
	return object{
		"openapi": "3.0.3",
		"info":    info,
		"servers": servers,
		"tags":    tags,
		"paths":   paths,
		"components": object{
			"schemas":         schemas,
			"examples":        examples,
			"headers":         headers,
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
				if name, ok := strings.CutPrefix(ref, definitionsPrefix); ok {
					value[key] = "#/components/schemas/" + name
				}
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

// removeUnused removes the components that neither the roots nor other components refer to.
func removeUnused(components object, roots ...any) {
	used := map[string]bool{}
	var visit func(value any)
	visit = func(value any) {
		switch value := value.(type) {
		case object:
			if ref, ok := value["$ref"].(string); ok {
				name := ref[strings.LastIndex(ref, "/")+1:]
				if component, ok := components[name]; ok && !used[name] {
					used[name] = true
					visit(component)
				}
			}
			for _, member := range value {
				visit(member)
			}
		case []any:
			for _, member := range value {
				visit(member)
			}
		}
	}
	for _, root := range roots {
		visit(root)
	}
	for name := range components {
		if !used[name] {
			delete(components, name)
		}
	}
}

func stringHeader(description string) object {
	return object{"description": description, "schema": object{"type": "string"}}
}
