// Package apierror has the errors of the REST API, and converts those of gRPC.
//
// Need: clients rely on detail and decide by reason.
package apierror

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	jobsv1 "github.com/jobs-grpc/jobs-grpc/gateway/gen/fleet/jobs/v1"
	"github.com/jobs-grpc/jobs-grpc/gateway/internal/config"
	"github.com/jobs-grpc/jobs-grpc/gateway/internal/restjson"
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
		HTTPStatus:      httpStatus(c),
	}
}

// httpStatus returns the HTTP status of a gRPC code.
func httpStatus(c codes.Code) int {
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

// errorDomain marks errors of jobs-grpc, whose messages are safe to show to clients.
const errorDomain = "jobs-grpc"

// requestSizeSetting is the ErrorInfo metadata "setting" of a request that is too large. Other
// LIMIT_EXCEEDED errors are about load or quota.
const requestSizeSetting = "JOBS_MAX_REQUEST_BYTES"

// sanitizedErrors replaces errors from outside jobs-grpc, such as gRPC's own: their
// messages may contain internal addresses.
var sanitizedErrors = map[codes.Code]Error{
	codes.Unavailable:      {Reason: "SERVICE_UNAVAILABLE", Detail: "The service is unavailable; retry later", retryAfter: time.Second},
	codes.DeadlineExceeded: {Reason: "DEADLINE_EXCEEDED", Detail: "The deadline expired before the response; the call may have taken effect"},
	codes.Canceled:         {Reason: "CANCELED", Detail: "The request was canceled"},
	codes.Unimplemented:    {Reason: "NOT_IMPLEMENTED", Detail: "The service does not implement this method"},
	// gRPC sends it for a message over its size limit: a small JSON body can become a large message.
	codes.ResourceExhausted: {Reason: "BODY_TOO_LARGE", Detail: "The body is too large for the service", HTTPStatus: http.StatusRequestEntityTooLarge},
	codes.NotFound:          {Reason: "ROUTE_NOT_FOUND", Detail: "Not found"},
	codes.Unauthenticated:   {Reason: "UNAUTHENTICATED", Detail: "The call is not authenticated"},
	codes.PermissionDenied:  {Reason: "PERMISSION_DENIED", Detail: "The call is not permitted"},
}

// FromGRPC converts an error of the generated code or of a gRPC call with the context ctx.
func FromGRPC(ctx context.Context, err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	st := status.Convert(err)
	// A stopping server resets calls that are on their way to it. The client did not cancel them.
	if st.Code() == codes.Canceled && ctx.Err() == nil {
		st = status.New(codes.Unavailable, st.Message())
	}
	e = New(st.Code(), "", st.Message())
	for _, detail := range st.Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			e.Reason, e.FromService = detail.Reason, detail.Domain == errorDomain
			if detail.Metadata["setting"] == requestSizeSetting {
				e.HTTPStatus = http.StatusRequestEntityTooLarge
			}
		case *errdetails.BadRequest:
			for _, v := range detail.FieldViolations {
				e.FieldViolations = append(e.FieldViolations, FieldViolation{v.Field, v.Description})
			}
		case *jobsv1.DeviceExecution:
			e.CurrentExecution, _ = restjson.Marshal(detail) // can't fail: a test marshals every field
		case *errdetails.RetryInfo:
			e.retryAfter = detail.RetryDelay.AsDuration()
		}
	}
	if e.FromService {
		return e
	}
	if st.Code() == codes.InvalidArgument {
		return MalformedRequest(CleanParserMessage(st.Message()))
	}
	sanitized, ok := sanitizedErrors[st.Code()]
	if !ok {
		return New(codes.Internal, "INTERNAL", "Internal error")
	}
	e = New(st.Code(), sanitized.Reason, sanitized.Detail)
	e.retryAfter, e.HTTPStatus = sanitized.retryAfter, cmp.Or(sanitized.HTTPStatus, e.HTTPStatus)
	return e
}

var protoPrefix = regexp.MustCompile(`^proto: ?(syntax error )?(\(line \d+:\d+\): )?`)

// CleanParserMessage turns an error message of protobuf-go into one for clients: no prefix,
// one line, bounded length.
func CleanParserMessage(text string) string {
	// protobuf-go puts no-break spaces into some of its messages at random.
	text = strings.ReplaceAll(text, "\u00a0", " ")
	text = protoPrefix.ReplaceAllString(text, "")
	return Truncate(strings.ToValidUTF8(strings.Join(strings.Fields(text), " "), "?"))
}
