package main

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
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
)

// errorDomain is that of the errors whose text the service wrote for its callers.
const errorDomain = "jobs-grpc"

// problem is the body of every answer that is not 2xx.
type problem struct {
	Detail          string      `json:"detail"`
	Code            string      `json:"code"`
	Reason          string      `json:"reason"`
	FieldViolations []violation `json:"field_violations"`
	// Only with EXECUTION_CHANGED, and without its document.
	CurrentExecution json.RawMessage `json:"current_execution,omitempty"`

	status     int
	retryAfter time.Duration
}

type violation struct {
	Field       string `json:"field"`
	Description string `json:"description"`
}

func newProblem(c codes.Code, reason, detail string, violations ...violation) *problem {
	return &problem{
		Detail:          detail,
		Code:            code.Code(c).String(),
		Reason:          reason,
		FieldViolations: append([]violation{}, violations...),
		status:          runtime.HTTPStatusFromCode(c),
	}
}

// withStatus is for what HTTP tells apart and gRPC does not.
func (p *problem) withStatus(status int) *problem {
	p.status = status
	return p
}

func invalidField(field, description string) *problem {
	return newProblem(codes.InvalidArgument, "INVALID_FIELD", description, violation{field, description})
}

func malformed(detail string) *problem {
	return newProblem(codes.InvalidArgument, "MALFORMED_REQUEST", detail)
}

func (p *problem) write(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "application/json")
	if p.retryAfter > 0 {
		seconds := int(math.Ceil(p.retryAfter.Seconds()))
		w.Header().Set("Retry-After", strconv.Itoa(seconds))
	}
	if p.status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", "Bearer")
	}
	w.WriteHeader(p.status)
	body, _ := json.Marshal(p) // of strings, and of JSON that marshal.go made: it can't fail
	_, _ = w.Write(body)
}

// What callers are told when the text of an error was not written for them: it may hold
// addresses and other internals.
var fixedTexts = map[codes.Code]problem{
	codes.Unavailable:      {Reason: "SERVICE_UNAVAILABLE", Detail: "The service is unavailable; retry later"},
	codes.DeadlineExceeded: {Reason: "DEADLINE_EXCEEDED", Detail: "The answer did not come in time; the call may have taken effect"},
	codes.Canceled:         {Reason: "CANCELED", Detail: "The request was canceled"},
	codes.Unimplemented:    {Reason: "NOT_IMPLEMENTED", Detail: "The service does not know this call"},
	// gRPC's own word for a message over its limit: a small body can become a large one.
	codes.ResourceExhausted: {Reason: "BODY_TOO_LARGE", Detail: "The body is too large for the service", status: http.StatusRequestEntityTooLarge},
	codes.NotFound:          {Reason: "ROUTE_NOT_FOUND", Detail: "There is nothing here"},
	codes.Unauthenticated:   {Reason: "UNAUTHENTICATED", Detail: "The call is not authenticated"},
	codes.PermissionDenied:  {Reason: "PERMISSION_DENIED", Detail: "The call is not permitted"},
}

// handleError is the library's hook for every error of a call.
func handleError(logger *slog.Logger) runtime.ErrorHandlerFunc {
	return func(ctx context.Context, _ *runtime.ServeMux, _ runtime.Marshaler, w http.ResponseWriter, r *http.Request, err error) {
		p, isService := problemOf(err)
		if !isService && p.status >= http.StatusInternalServerError {
			logger.WarnContext(ctx, "call failed", "request_id", r.Header.Get("X-Request-Id"), "error", err.Error())
		}
		w.Header().Del("Trailer")
		w.Header().Del("Transfer-Encoding")
		p.write(w)
	}
}

// problemOf turns an error into an answer, and says whether it is the service's own.
func problemOf(err error) (p *problem, isService bool) {
	var routing *runtime.HTTPStatusError
	if errors.As(err, &routing) {
		return malformed("The path is not properly encoded").withStatus(routing.HTTPStatus), false
	}
	st := status.Convert(err)
	p = newProblem(st.Code(), "", st.Message())
	for _, detail := range st.Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			p.Reason, isService = detail.Reason, detail.Domain == errorDomain
			if detail.Metadata["setting"] == requestLimit {
				p.status = http.StatusRequestEntityTooLarge
			}
		case *errdetails.BadRequest:
			for _, v := range detail.FieldViolations {
				p.FieldViolations = append(p.FieldViolations, violation{v.Field, v.Description})
			}
		case *jobsv1.DeviceExecution:
			p.CurrentExecution, _ = appendMessage(nil, detail.ProtoReflect(), nil) // a test writes every field
		case *errdetails.RetryInfo:
			p.retryAfter = detail.RetryDelay.AsDuration()
		}
	}
	if isService {
		return p, true
	}
	if st.Code() == codes.InvalidArgument {
		return malformed(cleanText(st.Message())), false
	}
	if fixed, ok := fixedTexts[st.Code()]; ok {
		p = newProblem(st.Code(), fixed.Reason, fixed.Detail)
		if fixed.status != 0 {
			p.status = fixed.status
		}
		return p, false
	}
	return newProblem(codes.Internal, "INTERNAL", "Internal error"), false
}

// The limit of the service that is about the body, not about how much is going on.
const requestLimit = "JOBS_MAX_REQUEST_BYTES"

var protoPrefix = regexp.MustCompile(`^proto: ?(syntax error )?(\(line \d+:\d+\): )?`)

// Texts may quote the request, which can be large.
const maxText = 200

// cleanText is for the library's own words about a request that it can't translate.
func cleanText(text string) string {
	// protobuf-go varies its spaces, so that nobody relies on the text.
	text = strings.ReplaceAll(text, "\u00a0", " ")
	text = protoPrefix.ReplaceAllString(text, "")
	return clip(strings.ToValidUTF8(strings.Join(strings.Fields(text), " "), "?"))
}

// clip keeps what a text quotes of the request from making it as large.
func clip(text string) string {
	if len(text) <= maxText {
		return text
	}
	return strings.ToValidUTF8(text[:maxText], "") + "…"
}
