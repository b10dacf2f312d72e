package apierror

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"regexp"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	jobsv1 "github.com/jobs-grpc/jobs-grpc/gateway/gen/fleet/jobs/v1"
	"github.com/jobs-grpc/jobs-grpc/gateway/internal/restjson"
)

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
