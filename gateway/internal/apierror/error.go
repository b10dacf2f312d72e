// Package apierror has the errors of the REST API, and converts those of gRPC.
package apierror

import (
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/grpc/codes"

	"github.com/jobs-grpc/jobs-grpc/gateway/internal/config"
)

// Error is the body and status of every response that is not 2xx.
type Error struct {
	Detail          string           `json:"detail"`
	Code            string           `json:"code"`
	Reason          string           `json:"reason"`
	FieldViolations []FieldViolation `json:"field_violations"`
	RequestID       string           `json:"request_id"` // set when the error is written
	// Only with EXECUTION_CHANGED; document_params and status_details are null.
	CurrentExecution json.RawMessage `json:"current_execution,omitempty"`

	HTTPStatus  int  `json:"-"`
	FromService bool `json:"-"` // the server sent it, so its message is for clients
	retryAfter  time.Duration
}

type FieldViolation struct {
	Field       string `json:"field"`
	Description string `json:"description"`
}

// New returns an error with the HTTP status that corresponds to the gRPC code.
func New(c codes.Code, reason, detail string, violations ...FieldViolation) *Error {
	return &Error{
		Detail:          detail,
		Code:            code.Code(c).String(),
		Reason:          reason,
		FieldViolations: append([]FieldViolation{}, violations...),
		HTTPStatus:      HTTPStatus(c),
	}
}

// HTTPStatus returns the HTTP status of a gRPC code.
func HTTPStatus(c codes.Code) int {
	if c == codes.OutOfRange { // a position after which a stream can't continue
		return http.StatusGone
	}
	return runtime.HTTPStatusFromCode(c)
}

// WithStatus overrides the HTTP status, for errors that gRPC has no code for.
func (e *Error) WithStatus(status int) *Error {
	e.HTTPStatus = status
	return e
}

// InvalidField returns an INVALID_FIELD error about one field.
func InvalidField(field, description string) *Error {
	return New(codes.InvalidArgument, "INVALID_FIELD", description, FieldViolation{field, description})
}

// MalformedRequest returns an error about a request that can't be parsed.
func MalformedRequest(detail string) *Error {
	return New(codes.InvalidArgument, "MALFORMED_REQUEST", detail)
}

// Overloaded returns an error about a limit of the gateway.
func Overloaded(setting string, limit int64) *Error {
	e := New(codes.ResourceExhausted, "OVERLOADED", fmt.Sprintf("The gateway is overloaded (%s is %d); retry later", config.EnvName(setting), limit))
	e.retryAfter = time.Second
	return e
}

// Error makes *Error an error, so that upstream.Invoke can return it.
func (e *Error) Error() string { return e.Detail }

func (e *Error) Write(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "application/json")
	if e.retryAfter > 0 {
		seconds := int(math.Ceil(e.retryAfter.Seconds()))
		w.Header().Set("Retry-After", strconv.Itoa(seconds))
	}
	if e.HTTPStatus == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", "Bearer")
	}
	w.WriteHeader(e.HTTPStatus)
	_, _ = w.Write(e.Body(w))
}

// Body returns the JSON of the error. It has the request ID of the response.
func (e *Error) Body(w http.ResponseWriter) []byte {
	written := *e // e can be the error of several requests
	written.RequestID = w.Header().Get("X-Request-Id")
	body, _ := json.Marshal(written) // can't fail: strings, and JSON from marshal.go
	return body
}

// maxQuotedBytes limits what an error quotes from the request, which can be large.
const maxQuotedBytes = 200

// Truncate shortens text to maxQuotedBytes.
func Truncate(text string) string {
	if len(text) <= maxQuotedBytes {
		return text
	}
	return strings.ToValidUTF8(text[:maxQuotedBytes], "") + "…"
}
