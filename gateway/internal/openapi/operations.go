package main

import "strings"

func convertOperation(path string, operation object) object {
	id := operation["operationId"].(string)
	if name, ok := additionalRoutes[id]; ok {
		operation["operationId"] = name
		id = strings.TrimSuffix(id, "2")
		operation["x-rpc"] = id // the method that the gateway calls
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
			operation["requestBody"] = convertBody(id, parameter)
			continue
		}
		parameters = append(parameters, convertParameter(id, parameter))
	}
	operation["parameters"] = parameters
	operation["tags"] = []string{tag}
	operation["responses"] = convertResponses(id, operation["responses"].(object))
	return operation
}

func convertBody(id string, parameter object) object {
	content := object{"schema": parameter["schema"]}
	if id == "CreateJob" {
		content["example"] = createJobExample
	}
	return object{
		"required": requiredFields[id+"Request"] != nil,
		"content":  object{"application/json": content},
	}
}

// convertParameter moves the type of a parameter to its schema, and adds its limits.
func convertParameter(id string, parameter object) object {
	schema := object{}
	delete(parameter, "collectionFormat") // "multi" is the default in OpenAPI 3.0
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
	return parameter
}

func convertResponses(id string, responses object) object {
	ok := responses["200"].(object)
	headers := object{"X-Request-Id": stringHeader("The request ID in the logs.")}
	status := "200"
	switch {
	case id == "CreateJob":
		status = "201"
		headers["Location"] = stringHeader("The path of the job.")
	case id == "GetJob":
		headers["X-Next-Page-Token"] = stringHeader("The page_token of the executions that follow. Absent if there are none.")
		headers["Link"] = stringHeader(`The URL of the executions that follow: <…>; rel="next". Absent if there are none.`)
	case strings.HasPrefix(id, "List"):
		headers["X-Next-Page-Token"] = stringHeader("The page_token of the next page. Absent on the last page.")
		headers["Link"] = stringHeader(`The URL of the next page: <…>; rel="next". Absent on the last page.`)
	}
	response := object{
		"description": ok["description"],
		"headers":     headers,
		"content":     object{"application/json": object{"schema": ok["schema"]}},
	}
	if id == "CreateJob" {
		response["links"] = createJobLinks
	}
	return object{
		status:    response,
		"default": object{"$ref": "#/components/responses/Error"},
	}
}
