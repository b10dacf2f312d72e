package main

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
)

// examplesJSON has a request and a response of each operation, as tests/gateway/test_openapi_examples.py
// records them.
//
//go:embed examples.json
var examplesJSON []byte

type example struct {
	Request  any `json:"request"`
	Response any `json:"response"`
}

var examples = func() map[string]example {
	var all map[string]example
	if err := json.Unmarshal(examplesJSON, &all); err != nil {
		panic(fmt.Sprintf("examples.json: %v", err))
	}
	return all
}()

func convertOperation(path string, operation, schemas object, c *contract) object {
	rpc := operation["operationId"].(string)
	firstParagraph, _ := operation["summary"].(string) // of the comment
	description, _ := operation["description"].(string)
	operation["description"] = withoutErrors(strings.TrimSpace(firstParagraph + "\n\n" + description))
	if route, ok := additionalRoutes[rpc]; ok {
		rpc = strings.TrimSuffix(rpc, "2")
		operation["operationId"], operation["summary"] = route.id, route.summary
		operation["x-rpc"] = rpc // the method that the gateway calls
	} else {
		operation["summary"] = c.summaries[rpc]
	}
	id := operation["operationId"].(string)
	operation["tags"] = []any{tagOf(path)}
	operation["security"] = operatorSecurity
	if strings.HasPrefix(path, "/device/") {
		operation["security"] = deviceSecurity
	}
	parameters := []any{}
	given, _ := operation["parameters"].([]any) // absent if there are none
	for _, p := range given {
		parameter := p.(object)
		if parameter["in"] == "body" {
			operation["requestBody"] = convertBody(id, parameter, schemas)
			continue
		}
		parameters = append(parameters, convertParameter(rpc, parameter))
	}
	operation["parameters"] = parameters
	ok := operation["responses"].(object)["200"].(object)
	stream, isStream := streams[rpc]
	if isStream {
		operation["description"] = stream.description
		operation["summary"] = c.summaries[rpc] + " (Server-Sent Events)"
		operation["parameters"] = append(parameters, lastEventID)
	}
	operation["responses"] = c.errorResponses(rpc, operation)
	if isStream {
		maps.Copy(operation["responses"].(object), stream.responses)
		return operation
	}
	maps.Copy(operation["responses"].(object), successResponse(rpc, id, ok))
	return operation
}

func tagOf(path string) string {
	switch {
	case strings.HasPrefix(path, "/device/"):
		return "device"
	case strings.HasPrefix(path, "/customer/fleet"):
		return "fleet"
	case eventPath.MatchString(path):
		return "events"
	}
	return "jobs"
}

var eventPath = regexp.MustCompile(`/events(:watch)?$|^/customer/webhooks`)

func convertBody(id string, parameter, schemas object) object {
	content := object{"schema": parameter["schema"]}
	if request := examples[id].Request; request != nil {
		content["example"] = request
	}
	name := strings.TrimPrefix(parameter["schema"].(object)["$ref"].(string), definitionsPrefix)
	return object{
		"required": schemas[name].(object)["required"] != nil, // the body has a required field
		"content":  object{"application/json": content},
	}
}

var enumValues = regexp.MustCompile(`(?s)\n\n - [A-Z_]+: .*$`)

// convertParameter moves the type of a parameter to its schema, and adds its limits.
func convertParameter(rpc string, parameter object) object {
	schema := object{}
	delete(parameter, "collectionFormat") // "multi" is the default in OpenAPI 3.0
	for _, key := range []string{"type", "format", "enum", "items"} {
		if value, ok := parameter[key]; ok {
			schema[key] = value
			delete(parameter, key)
		}
	}
	field := messageOf(rpc + "Request").Fields().ByName(protoreflect.Name(parameter["name"].(string)))
	description := parameter["description"].(string)
	maps.Copy(schema, limitsOf(field))
	if strings.Contains(description, "STATUS_UNSPECIFIED: all") {
		schema["enum"] = append([]any{"STATUS_UNSPECIFIED"}, schema["enum"].([]any)...)
	}
	maps.Copy(schema, overrides[string(field.FullName())])
	if parameter["in"] == "query" {
		allowEmpty(field, schema)
		delete(schema, "minLength") // an empty value counts as absent
	}
	parameter["schema"] = schema
	return parameter
}

// successResponse returns the 2xx response of an operation, by its status.
func successResponse(rpc, id string, ok object) object {
	headers := object{"X-Request-Id": object{"$ref": "#/components/headers/RequestId"}}
	status := "200"
	switch {
	case id == "CreateJob" || id == "CreateWebhook":
		status = "201"
		headers["Location"] = object{"$ref": "#/components/headers/Location"}
	case id == "GetJob" || messageOf(rpc+"Response").Fields().ByName("next_page_token") != nil:
		headers["X-Next-Page-Token"] = object{"$ref": "#/components/headers/NextPageToken"}
		headers["Link"] = object{"$ref": "#/components/headers/Link"}
	}
	if id == "ListPendingExecutions" || id == "StartNextExecution" {
		headers["X-Poll-After"] = object{"$ref": "#/components/headers/PollAfter"}
	}
	content := object{"schema": ok["schema"]}
	recorded, isRecorded := examples[id]
	if reference, ok := ok["schema"].(object)["$ref"].(string); ok && !isRecorded {
		recorded = examples[typicalOperations[reference]]
	}
	if recorded.Response != nil {
		content["example"] = recorded.Response
	}
	response := object{
		"description": ok["description"],
		"headers":     headers,
		"content":     object{"application/json": content},
	}
	if id == "CreateJob" {
		response["links"] = createJobLinks
		headers := object{"X-Request-Id": headers["X-Request-Id"]}
		checked := object{"description": "With validate_only: what would be created.", "headers": headers, "content": object{"application/json": content}}
		return object{"200": checked, status: response}
	}
	return object{status: response}
}

// shareResponses replaces error responses that many operations have in common by references.
func shareResponses(paths object) {
	uses := map[string]int{}
	visit := func(apply func(status, text string, responses object)) {
		for _, item := range paths {
			for _, operation := range item.(object) {
				responses := operation.(object)["responses"].(object)
				for status, response := range responses {
					if status[0] != '2' {
						text, _ := json.Marshal(response)
						apply(status, string(text), responses)
					}
				}
			}
		}
	}
	visit(func(_, text string, _ object) { uses[text]++ })
	visit(func(status, text string, operation object) {
		name, ok := sharedResponses[status]
		if !ok || uses[text] < 5 {
			return
		}
		if strings.Contains(text, "DEVICE_REQUIRED") {
			name = "Device" + name
		}
		if shared, _ := json.Marshal(responses[name]); responses[name] != nil && string(shared) != text {
			return // another one has the name
		}
		responses[name] = operation[status]
		operation[status] = object{"$ref": "#/components/responses/" + name}
	})
}
