// Command openapi serves the document: it converts the Swagger 2.0 document of protoc-gen-openapiv2 (stdin) to the
// OpenAPI 3.0 document of the REST API (stdout). Its argument is the contract as a file descriptor
// set with source info.
//
// It adds what the plugin can't know: status 201, headers, null values, which request bodies are
// optional, examples, the limits that the contract declares, and a response for each
// HTTP status with the error reasons that the comments list.
package main

import (
	"bytes"
	"encoding/json"
	"io"
	"log"
	"maps"
	"os"
	"strings"
)

const packagePrefix = "fleet.jobs.v1."

// object is a JSON object. Its members are written in alphabetical order.
type object = map[string]any

func main() {
	input := bytes.ReplaceAll(must(io.ReadAll(os.Stdin)), []byte("#/definitions/"), []byte(schemasPrefix))
	swagger := parse[object]("the Swagger document", input, json.Unmarshal)
	out := json.NewEncoder(os.Stdout)
	out.SetEscapeHTML(false)
	out.SetIndent("", "  ")
	must(out, out.Encode(convert(swagger, readContract(os.Args[1]))))
}

func must[T any](value T, err error) T {
	if err != nil {
		log.Fatal(err)
	}
	return value
}

func convert(swagger object, c *contract) object {
	document := parts.Document
	components := document["components"].(object)
	schemas := components["schemas"].(object)
	maps.Copy(schemas, swagger["definitions"].(object))
	inlineEnums(schemas, swagger)
	addInputSchemas(schemas)
	for name, schema := range schemas {
		convertSchema(name, schema.(object))
	}
	markNullable(schemas)
	paths := swagger["paths"].(object)
	for path, item := range paths {
		for _, operation := range item.(object) {
			convertOperation(path, operation.(object), schemas, c)
		}
	}
	responses := shareResponses(paths)
	removeUnused(schemas, paths)
	examples := errorExamples(c)
	removeUnused(examples, paths, responses)
	document["paths"], components["responses"], components["examples"] = paths, responses, examples
	return document
}

// removeUnused removes the components that neither the roots nor other components refer to.
func removeUnused(components object, roots ...any) {
	used := map[string]bool{}
	var visit func(object)
	visit = func(value object) {
		if name := refName(value); components[name] != nil && !used[name] {
			used[name] = true
			walk(components[name], visit)
		}
	}
	for _, root := range roots {
		walk(root, visit)
	}
	maps.DeleteFunc(components, func(name string, _ any) bool { return !used[name] })
}

// walk calls visit with each object in a JSON value, from the outside in.
func walk(value any, visit func(object)) {
	switch value := value.(type) {
	case object:
		visit(value)
		for _, member := range value {
			walk(member, visit)
		}
	case []any:
		for _, member := range value {
			walk(member, visit)
		}
	}
}

// refName returns the name of the component that an object refers to, or "".
func refName(value object) string {
	ref, _ := value["$ref"].(string)
	return ref[strings.LastIndexByte(ref, '/')+1:]
}

func refTo(kind, name string) object {
	return object{"$ref": "#/components/" + kind + "/" + name}
}
