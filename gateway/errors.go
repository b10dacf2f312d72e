package main

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
)

// apiError is the body and status of every response that is not 2xx.
type apiError struct {
	Detail          string           `json:"detail"`
	Code            string           `json:"code"`
	Reason          string           `json:"reason"`
	FieldViolations []fieldViolation `json:"field_violations"`
	RequestID       string           `json:"request_id"` // set when the error is written
	// Only with EXECUTION_CHANGED; document_params and status_details are null.
	CurrentExecution json.RawMessage `json:"current_execution,omitempty"`

	httpStatus int `json:"-"`
	retryAfter time.Duration
}

type fieldViolation struct {
	Field       string `json:"field"`
	Description string `json:"description"`
}

// newAPIError returns an error with the HTTP status that corresponds to the gRPC code.
func newAPIError(c codes.Code, reason, detail string, violations ...fieldViolation) *apiError {
	return &apiError{
		Detail:          detail,
		Code:            code.Code(c).String(),
		Reason:          reason,
		FieldViolations: append([]fieldViolation{}, violations...),
		httpStatus:      runtime.HTTPStatusFromCode(c),
	}
}

// withStatus overrides the HTTP status, for errors that gRPC has no code for.
func (e *apiError) withStatus(status int) *apiError {
	e.httpStatus = status
	return e
}

// invalidField returns an INVALID_FIELD error about one field.
func invalidField(field, description string) *apiError {
	return newAPIError(codes.InvalidArgument, "INVALID_FIELD", description, fieldViolation{field, description})
}

// malformedRequest returns an error about a request that can't be parsed.
func malformedRequest(detail string) *apiError {
	return newAPIError(codes.InvalidArgument, "MALFORMED_REQUEST", detail)
}

// overloaded returns an error about a limit of the gateway.
func overloaded(setting string, limit int64) *apiError {
	e := newAPIError(codes.ResourceExhausted, "OVERLOADED", fmt.Sprintf("The gateway is overloaded (%s is %d); retry later", envName(setting), limit))
	e.retryAfter = time.Second
	return e
}

// Error makes apiError an error, so that upstream.Invoke can return it.
func (e *apiError) Error() string { return e.Detail }

func (e *apiError) write(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "application/json")
	if e.retryAfter > 0 {
		seconds := int(math.Ceil(e.retryAfter.Seconds()))
		w.Header().Set("Retry-After", strconv.Itoa(seconds))
	}
	if e.httpStatus == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", "Bearer")
	}
	w.WriteHeader(e.httpStatus)
	_, _ = w.Write(e.body(w))
}

// body returns the JSON of the error. It has the request ID of the response.
func (e *apiError) body(w http.ResponseWriter) []byte {
	written := *e // e can be the error of several requests
	written.RequestID = w.Header().Get("X-Request-Id")
	body, _ := json.Marshal(written) // can't fail: strings, and JSON from marshal.go
	return body
}

// maxQuotedBytes limits what an error quotes from the request, which can be large.
const maxQuotedBytes = 200

// truncate shortens text to maxQuotedBytes.
func truncate(text string) string {
	if len(text) <= maxQuotedBytes {
		return text
	}
	return strings.ToValidUTF8(text[:maxQuotedBytes], "") + "…"
}
