package main

import (
	"maps"
	"regexp"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
)

func convertOperation(path string, operation, schemas object, c *contract) {
	rpc := operation["operationId"].(string)
	firstParagraph, _ := operation["summary"].(string) // of the comment
	description, _ := operation["description"].(string)
	operation["description"] = withoutErrors(strings.TrimSpace(firstParagraph + "\n\n" + description))
	if route, ok := parts.AdditionalRoutes[rpc]; ok {
		rpc = strings.TrimSuffix(rpc, "2")
		operation["operationId"], operation["summary"] = route.ID, route.Summary
		operation["x-rpc"] = rpc // the method that the gateway calls
	} else {
		operation["summary"] = c.summaries[rpc]
	}
	id := operation["operationId"].(string)
	operation["tags"] = []any{tagOf(path)}
	operation["security"] = parts.Security.Operator
	if strings.HasPrefix(path, "/device/") {
		operation["security"] = parts.Security.Device
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
	success := parts.Streams[rpc].Responses
	if success != nil {
		operation["description"] = parts.Streams[rpc].Description
		operation["summary"] = c.summaries[rpc] + " (Server-Sent Events)"
		operation["parameters"] = append(parameters, parts.LastEventID)
	} else {
		success = successResponse(rpc, id, ok)
	}
	operation["responses"] = c.errorResponses(rpc, operation)
	maps.Copy(operation["responses"].(object), success)
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
	schema := parameter["schema"].(object)
	content := object{"schema": schema}
	if request := examples[id].Request; request != nil {
		content["example"] = request
	}
	required := schemas[refName(schema)].(object)["required"] != nil // the body has a required field
	return object{"required": required, "content": jsonContent(content)}
}

func jsonContent(content object) object { return object{"application/json": content} }

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
	maps.Copy(schema, parts.Overrides[string(field.FullName())])
	if parameter["in"] == "query" {
		allowEmpty(field, schema)
		delete(schema, "minLength") // an empty value counts as absent
	}
	parameter["schema"] = schema
	return parameter
}

// successResponse returns the 2xx response of an operation, by its status.
func successResponse(rpc, id string, ok object) object {
	headers := object{"X-Request-Id": refTo("headers", "RequestId")}
	status := "200"
	switch {
	case id == "CreateJob" || id == "CreateWebhook":
		status = "201"
		headers["Location"] = refTo("headers", "Location")
	case id == "GetJob" || messageOf(rpc+"Response").Fields().ByName("next_page_token") != nil:
		headers["X-Next-Page-Token"] = refTo("headers", "NextPageToken")
		headers["Link"] = refTo("headers", "Link")
	}
	if id == "ListPendingExecutions" || id == "StartNextExecution" {
		headers["X-Poll-After"] = refTo("headers", "PollAfter")
	}
	content := object{"schema": ok["schema"]}
	recorded, isRecorded := examples[id]
	if !isRecorded {
		recorded = examples[parts.TypicalOperations[refName(ok["schema"].(object))]]
	}
	if recorded.Response != nil {
		content["example"] = recorded.Response
	}
	response := object{"description": ok["description"], "headers": headers, "content": jsonContent(content)}
	if id != "CreateJob" {
		return object{status: response}
	}
	response["links"] = parts.CreateJobLinks
	return object{status: response, "200": object{
		"description": "With validate_only: what would be created.",
		"headers":     object{"X-Request-Id": headers["X-Request-Id"]},
		"content":     jsonContent(content),
	}}
}
