package main

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/grpc/codes"

	"github.com/jobs-grpc/jobs-grpc/gateway/internal/apierror"
)

// gatewayError is an error of document.yaml, in addition to those of the contract.
type gatewayError struct {
	Reason, Code, If, Meaning, Detail string
	Status                            int
}

// returnedBy reports whether an operation returns the error.
func (e gatewayError) returnedBy(operation object) bool {
	switch e.If {
	case "body":
		return operation["requestBody"] != nil
	case "path":
		return slices.ContainsFunc(operation["parameters"].([]any), func(p any) bool { return p.(object)["in"] == "path" })
	}
	return true
}

// errorExamples returns an example of each error by its reason, which the responses refer to.
func errorExamples(c *contract) object {
	for _, e := range parts.GatewayErrors {
		sampleErrors[e.Reason] = object{"detail": e.Detail, "code": e.Code}
	}
	examples := object{}
	for reason, sample := range sampleErrors {
		sample["reason"] = reason
		if sample["field_violations"] == nil {
			sample["field_violations"] = []any{}
		}
		sample["request_id"] = "U3KH5RYN2QWLJCVMFQ6TLOJ7PE"
		firstSentence, _, _ := strings.Cut(c.meaning(reason), ". ")
		examples[reason] = object{"summary": strings.TrimSuffix(firstSentence, ".") + ".", "value": sample}
	}
	return examples
}

func (c *contract) meaning(reason string) string {
	for _, e := range parts.GatewayErrors {
		if e.Reason == reason {
			return e.Meaning
		}
	}
	if c.meanings[reason] == "" {
		panic("no meaning of " + reason)
	}
	return c.meanings[reason]
}

// errorResponses returns the responses of an operation that are not 2xx, by status.
func (c *contract) errorResponses(rpc string, operation object) object {
	reasons := map[int][]string{}
	for name, all := range c.methodErrors[rpc] {
		status := apierror.HTTPStatus(codes.Code(code.Code_value[name]))
		reasons[status] = append(reasons[status], all...)
	}
	if operation["requestBody"] != nil { // a body that is too large after its conversion to protobuf
		reasons[413] = append(reasons[413], "LIMIT_EXCEEDED")
	}
	for _, e := range parts.GatewayErrors {
		if e.returnedBy(operation) {
			reasons[e.Status] = append(reasons[e.Status], e.Reason)
		}
	}
	responses := object{}
	for status, all := range reasons {
		slices.Sort(all)
		responses[strconv.Itoa(status)] = c.errorResponse(status, slices.Compact(all))
	}
	return responses
}

func (c *contract) errorResponse(status int, reasons []string) object {
	var lines strings.Builder
	examples := object{}
	for _, reason := range reasons {
		fmt.Fprintf(&lines, "\n- `%s`: %s", reason, c.meaning(reason))
		examples[reason] = refTo("examples", reason)
	}
	headers := object{"X-Request-Id": refTo("headers", "RequestId")}
	switch status {
	case 401:
		headers["WWW-Authenticate"] = refTo("headers", "Authenticate")
	case 405:
		headers["Allow"] = refTo("headers", "Allow")
	case 429, 503:
		headers["Retry-After"] = refTo("headers", "RetryAfter")
	}
	return object{
		"description": parts.Statuses[status].Title + "\n" + lines.String(),
		"headers":     headers,
		"content":     jsonContent(object{"schema": refTo("schemas", "ApiError"), "examples": examples}),
	}
}

// shareResponses replaces error responses that many operations have in common by references to those that it returns.
func shareResponses(paths object) (shared object) {
	type use struct {
		status, text string
		responses    object
	}
	var all []use
	count := map[string]int{}
	for _, item := range paths {
		for _, operation := range item.(object) {
			responses := operation.(object)["responses"].(object)
			for status, response := range responses {
				text, _ := json.Marshal(response)
				all = append(all, use{status, string(text), responses})
				count[string(text)]++
			}
		}
	}
	shared, texts := object{}, map[string]string{}
	for _, u := range all {
		status, _ := strconv.Atoi(u.status)
		name := parts.Statuses[status].Shared
		if strings.Contains(u.text, "DEVICE_REQUIRED") {
			name = "Device" + name
		}
		isOther := texts[name] != "" && texts[name] != u.text // another response has the name
		if parts.Statuses[status].Shared == "" || count[u.text] < 5 || isOther {
			continue
		}
		texts[name], shared[name] = u.text, u.responses[u.status]
		u.responses[u.status] = refTo("responses", name)
	}
	return shared
}
