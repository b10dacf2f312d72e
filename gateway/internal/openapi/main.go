// Command openapi lifts the Swagger 2.0 document of protoc-gen-openapiv2 (stdin) to the
// OpenAPI 3.0 document of the REST API as it is served (stdout). It adds what only the
// gateway knows: 201, headers, errors, nulls, and which bodies are optional.
package main

import (
	"encoding/json"
	"log"
	"os"
	"slices"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	_ "github.com/jobs-grpc/jobs-grpc/gateway/gen/fleet/jobs/v1" // registers the messages
)

const packagePrefix = "fleet.jobs.v1."

// object is a JSON object; its members are written in alphabetical order.
type object = map[string]any

func main() {
	var swagger object
	if err := json.NewDecoder(os.Stdin).Decode(&swagger); err != nil {
		log.Fatal(err)
	}
	out := json.NewEncoder(os.Stdout)
	out.SetEscapeHTML(false)
	out.SetIndent("", "  ")
	if err := out.Encode(moveRefs(lift(swagger))); err != nil {
		log.Fatal(err)
	}
}

func lift(swagger object) object {
	schemas := object{"Error": errorSchema}
	for name, schema := range swagger["definitions"].(object) {
		schemas[name] = liftSchema(name, schema.(object))
	}
	// Answers hold what is inside of these, not the messages themselves.
	for _, name := range opened {
		delete(schemas, name)
	}
	paths := object{}
	for path, item := range swagger["paths"].(object) {
		operations := object{}
		for method, operation := range item.(object) {
			operations[method] = liftOperation(path, operation.(object))
		}
		paths[path] = operations
	}
	return object{
		"openapi":    "3.0.3",
		"info":       info,
		"paths":      paths,
		"components": object{"schemas": schemas, "parameters": headerParameters, "responses": responses},
	}
}

// liftSchema says which properties may be null, which are always there, and their limits.
func liftSchema(name string, schema object) object {
	if call, isBody := strings.CutSuffix(name, "Body"); isBody {
		name = call + "Request" // what the path leaves of it
	}
	message := findMessage(name)
	properties, ok := schema["properties"].(object)
	if message == nil || !ok {
		return schema
	}
	isRequest := strings.HasSuffix(name, "Request")
	var required []string
	for i := range message.Fields().Len() {
		field := message.Fields().Get(i)
		property, ok := properties[string(field.Name())].(object)
		if !ok {
			continue
		}
		if ref, ok := property["$ref"]; ok {
			// In OpenAPI 3.0 nothing beside a $ref counts.
			delete(property, "$ref")
			property["allOf"] = []any{object{"$ref": ref}}
		}
		if mayBeNull(field, name) {
			property["nullable"] = true
		}
		if !isRequest && !sometimes[string(field.FullName())] {
			required = append(required, string(field.Name()))
		}
		for key, value := range limits[string(field.FullName())] {
			property[key] = value
		}
	}
	if isRequest {
		required = requiredInRequests[name]
		for i := range message.Oneofs().Len() {
			if oneof := message.Oneofs().Get(i); !oneof.IsSynthetic() {
				schema["oneOf"] = alternatives(oneof)
			}
		}
	}
	if required != nil {
		schema["required"] = required
	}
	return schema
}

// findMessage finds a message by its name, or nil if it is none of this package's.
func findMessage(name string) protoreflect.MessageDescriptor {
	found, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(packagePrefix + name))
	if err != nil {
		return nil
	}
	message, _ := found.(protoreflect.MessageDescriptor)
	return message
}

// mayBeNull follows marshal.go in answers: what is unset is null, but a bool false. In
// requests null is "not given".
func mayBeNull(field protoreflect.FieldDescriptor, schema string) bool {
	if strings.HasSuffix(schema, "Request") {
		return !slices.Contains(requiredInRequests[schema], string(field.Name()))
	}
	return field.HasPresence() && field.Kind() != protoreflect.BoolKind
}

// alternatives says that exactly one of the fields must be there.
func alternatives(oneof protoreflect.OneofDescriptor) []any {
	var all []any
	for i := range oneof.Fields().Len() {
		all = append(all, object{"required": []string{string(oneof.Fields().Get(i).Name())}})
	}
	return all
}

func liftOperation(path string, operation object) object {
	id := operation["operationId"].(string)
	if name, ok := secondRoutes[id]; ok {
		operation["operationId"] = name
		id = strings.TrimSuffix(id, "2")
		operation["x-rpc"] = id // what the gateway calls
	}
	tag := "jobs"
	parameters := []any{refTo("TenantId"), refTo("UserId")}
	if strings.HasPrefix(path, "/device/") {
		tag = "device"
		parameters = append(parameters, refTo("DeviceId"))
	}
	for _, p := range operation["parameters"].([]any) {
		parameter := p.(object)
		if parameter["in"] == "body" {
			content := object{"schema": parameter["schema"]}
			if id == "CreateJob" {
				content["example"] = createExample
			}
			operation["requestBody"] = object{
				"required": requiredInRequests[id+"Request"] != nil,
				"content":  object{"application/json": content},
			}
			continue
		}
		schema := object{}
		delete(parameter, "collectionFormat") // "multi" is what OpenAPI 3.0 means anyway
		for _, key := range []string{"type", "format", "enum", "items"} {
			if value, ok := parameter[key]; ok {
				schema[key] = value
				delete(parameter, key)
			}
		}
		for key, value := range limits[packagePrefix+id+"Request."+parameter["name"].(string)] {
			schema[key] = value
		}
		parameter["schema"] = schema
		parameters = append(parameters, parameter)
	}
	operation["parameters"] = parameters
	operation["tags"] = []string{tag}
	operation["responses"] = liftResponses(id, operation["responses"].(object))
	return operation
}

func liftResponses(id string, from object) object {
	ok := from["200"].(object)
	headers := object{"X-Request-Id": stringHeader("The request's name in the logs.")}
	code := "200"
	switch {
	case id == "CreateJob":
		code = "201"
		headers["Location"] = stringHeader("The job.")
	case strings.HasPrefix(id, "List"):
		headers["X-Next-Page-Token"] = stringHeader("The next page's page_token. Absent on the last.")
		headers["Link"] = stringHeader(`The next page: <…>; rel="next". Absent on the last.`)
	}
	answer := object{
		"description": ok["description"],
		"headers":     headers,
		"content":     object{"application/json": object{"schema": ok["schema"]}},
	}
	if id == "CreateJob" {
		answer["links"] = links
	}
	return object{
		code:      answer,
		"default": object{"$ref": "#/components/responses/Error"},
	}
}

// moveRefs points every $ref at where OpenAPI 3.0 keeps schemas.
func moveRefs(value any) any {
	switch value := value.(type) {
	case object:
		for key, member := range value {
			if ref, ok := member.(string); ok && key == "$ref" {
				// The plugin writes a type beside the $ref of array items.
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
