package main

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/grpc/codes"

	"github.com/jobs-grpc/jobs-grpc/gateway/internal/apierror"
)

// gatewayError is an error that the gateway returns by itself, or a reason that has another HTTP status
// than the other reasons of its gRPC status code.
type gatewayError struct {
	reason, code string
	status       int
	meaning      string
	detail       string // of the example
}

// gatewayErrors are errors in addition to those of the contract. The condition says which operations
// return them.
var gatewayErrors = []struct {
	gatewayError
	condition func(operation object) bool
}{
	{gatewayError{"UNAUTHENTICATED", "UNAUTHENTICATED", 401,
		"A proxy in front of the server rejected the call.",
		"The call is not authenticated"}, always},
	{gatewayError{"PERMISSION_DENIED", "PERMISSION_DENIED", 403,
		"A proxy in front of the server rejected the call.",
		"The call is not permitted"}, always},
	{gatewayError{"HOST_NOT_ALLOWED", "PERMISSION_DENIED", 403,
		"The gateway does not serve the host of the `Host` header.",
		"The gateway does not serve this host; an administrator can list it in JOBS_GATEWAY_ALLOWED_HOSTS"}, always},
	{gatewayError{"ORIGIN_NOT_ALLOWED", "PERMISSION_DENIED", 403,
		"The request comes from a web page of another origin, which an administrator has not listed in `JOBS_GATEWAY_CORS_ORIGINS`.",
		"Web pages of https://ops.example.com may not call this API; an administrator can list the origin in JOBS_GATEWAY_CORS_ORIGINS"}, always},
	{gatewayError{"ROUTE_NOT_FOUND", "NOT_FOUND", 404,
		"There is no such path. For example, an ID in it contains a slash.",
		"No such route; /openapi.json lists all routes"}, hasPathParameter},
	{gatewayError{"METHOD_NOT_ALLOWED", "UNIMPLEMENTED", 405,
		"The path does not allow the method, but those of the `Allow` header. For example, an ID in it is empty.",
		"Method not allowed; use DELETE, GET, HEAD, PATCH"}, hasPathParameter},
	{gatewayError{"BODY_TOO_SLOW", "DEADLINE_EXCEEDED", 408,
		"The body did not arrive in time.",
		"The body did not arrive in time"}, hasBody},
	{gatewayError{"BODY_TOO_LARGE", "INVALID_ARGUMENT", 413,
		"The body exceeds a limit of the gateway or of the server.",
		"The body is too large; the limit is 262144 bytes"}, hasBody},
	{gatewayError{"UNSUPPORTED_MEDIA_TYPE", "INVALID_ARGUMENT", 415,
		"The body is compressed, or its `Content-Type` is absent or not `application/json`.",
		"The body must be JSON; send Content-Type: application/json"}, hasBody},
	{gatewayError{"HEADERS_TOO_LARGE", "INVALID_ARGUMENT", 431,
		"The forwarded headers exceed 7 KiB in total.",
		"The forwarded headers are too large; the limit is 7168 bytes in total"}, always},
	{gatewayError{"NOT_IMPLEMENTED", "UNIMPLEMENTED", 501,
		"The server is older than the gateway.",
		"The service does not implement this method"}, always},
	{gatewayError{"SERVICE_UNAVAILABLE", "UNAVAILABLE", 503,
		"The gateway can't reach the server.",
		"The service is unavailable; retry later"}, always},
	{gatewayError{"DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED", 504,
		"The deadline expired before the response. The call may have taken effect.",
		"The deadline expired before the response; the call may have taken effect"}, always},
}

func always(object) bool { return true }

func hasBody(operation object) bool { return operation["requestBody"] != nil }

func hasPathParameter(operation object) bool {
	return slices.ContainsFunc(operation["parameters"].([]any), func(p any) bool { return p.(object)["in"] == "path" })
}

// statusTitles are the descriptions of the responses. Clients decide by the reason.
var statusTitles = map[int]string{
	400: "The request is not valid, or the state of the job or execution does not allow it.",
	401: "The caller is unknown.",
	403: "The caller may not do this.",
	404: "There is no such job, device, execution, webhook or path.",
	405: "The path does not allow the method.",
	408: "The body did not arrive in time.",
	409: "The state differs from what the request expects.",
	410: "The stream can't continue after the position: read the jobs again, then continue after the position in the error.",
	413: "The body is too large.",
	415: "The body is not JSON.",
	429: "There are too many requests, or a limit of the tenant is reached. With `Retry-After`, the same request can succeed later.",
	431: "The headers are too large.",
	500: "An internal error. The log has the cause under the `request_id`.",
	501: "The server is older than the gateway.",
	503: "The service is unavailable. Retry later if the call is safe to repeat.",
	504: "The deadline expired.",
}

// sample_errors.json has an example of each error of the service: see tools/errors_reference.py.
//
//go:embed sample_errors.json
var sampleErrorsJSON []byte

// errorExamples returns an example of each error by its reason, which the responses refer to.
func errorExamples(c *contract) object {
	var samples map[string]object
	if err := json.Unmarshal(sampleErrorsJSON, &samples); err != nil {
		panic(fmt.Sprintf("sample_errors.json: %v", err))
	}
	for _, e := range gatewayErrors {
		samples[e.reason] = object{"detail": e.detail, "code": e.code}
	}
	examples := object{}
	for reason, sample := range samples {
		sample["reason"] = reason
		if sample["field_violations"] == nil {
			sample["field_violations"] = []any{}
		}
		sample["request_id"] = "U3KH5RYN2QWLJCVMFQ6TLOJ7PE"
		examples[reason] = object{"summary": firstSentence(c.meaning(reason)), "value": sample}
	}
	return examples
}

func (c *contract) meaning(reason string) string {
	for _, e := range gatewayErrors {
		if e.reason == reason {
			return e.meaning
		}
	}
	if c.meanings[reason] == "" {
		panic("no meaning of " + reason)
	}
	return c.meanings[reason]
}

func firstSentence(text string) string {
	first, _, _ := strings.Cut(text, ". ")
	return strings.TrimSuffix(first, ".") + "."
}

// errorResponses returns the responses of an operation that are not 2xx, by status.
func (c *contract) errorResponses(rpc string, operation object) object {
	reasons := map[int][]string{}
	for name, all := range c.methodErrors[rpc] {
		status := apierror.HTTPStatus(codes.Code(code.Code_value[name]))
		reasons[status] = append(reasons[status], all...)
	}
	if hasBody(operation) { // a body that is too large after its conversion to protobuf
		reasons[413] = append(reasons[413], "LIMIT_EXCEEDED")
	}
	for _, e := range gatewayErrors {
		if e.condition(operation) {
			reasons[e.status] = append(reasons[e.status], e.reason)
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
		examples[reason] = object{"$ref": "#/components/examples/" + reason}
	}
	headers := object{"X-Request-Id": object{"$ref": "#/components/headers/RequestId"}}
	switch status {
	case 401:
		headers["WWW-Authenticate"] = object{"$ref": "#/components/headers/Authenticate"}
	case 405:
		headers["Allow"] = object{"$ref": "#/components/headers/Allow"}
	case 429, 503:
		headers["Retry-After"] = object{"$ref": "#/components/headers/RetryAfter"}
	}
	return object{
		"description": statusTitles[status] + "\n" + lines.String(),
		"headers":     headers,
		"content": object{"application/json": object{
			"schema":   object{"$ref": "#/components/schemas/ApiError"},
			"examples": examples,
		}},
	}
}
