// Package headers checks the headers of requests and selects those that calls forward.
//
// Need: callers, who must not get the rights of others by repeated or forged headers.
package headers

import (
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"

	"github.com/jobs-grpc/jobs-grpc/gateway/internal/apierror"
)

// AllowedHeaders lists the request headers that are forwarded as gRPC metadata.
var AllowedHeaders = []string{
	"authorization", "x-tenant-id", "x-user-id", "x-device-id", "x-request-id", "traceparent", "tracestate",
}

// identityHeaders identify the caller. A repeated one is rejected: if a proxy and the gRPC
// server picked different values, the call would act for the wrong caller.
var identityHeaders = []string{"X-Tenant-Id", "X-User-Id", "X-Device-Id", "Authorization"}

// Above 8 KiB of metadata, gRPC rejects a call with a probability that grows with the size. It counts
// headerOverhead extra bytes for each header. 1 KiB remains for the headers that gRPC adds.
const (
	maxMetadataBytes = 7 << 10
	headerOverhead   = 32
)

// Forwarded returns the headers of a request that its calls forward, as metadata. It leaves out those that
// metadata can't carry.
func Forwarded(r *http.Request) metadata.MD {
	forwarded := metadata.MD{}
	if certificates := Certificates(r.Context()); certificates != nil {
		forwarded[CertificateKey] = certificates
	}
	for _, name := range AllowedHeaders {
		if values := r.Header.Values(name); len(values) > 0 && !slices.ContainsFunc(values, isNotPrintableASCII) {
			forwarded[name] = values
		}
	}
	return forwarded
}

// CheckIdentityHeaders rejects identity headers that are repeated or not printable ASCII. Forwarded leaves out
// a header that metadata can't carry, and created_by would get lost.
func CheckIdentityHeaders(r *http.Request) *apierror.Error {
	for _, name := range identityHeaders {
		values := r.Header.Values(name)
		if len(values) > 1 {
			return apierror.New(codes.Unauthenticated, "DUPLICATE_METADATA", name+" was sent more than once; send it once")
		}
		if len(values) == 1 && isNotPrintableASCII(values[0]) {
			return apierror.New(codes.Unauthenticated, "INVALID_METADATA", name+" must be printable ASCII")
		}
	}
	return nil
}

// CheckBearerToken rejects requests without a token if required is set, unless certificates identify the caller. The gRPC
// server verifies the token.
func CheckBearerToken(r *http.Request, required bool) *apierror.Error {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !required || Certificates(r.Context()) != nil || strings.EqualFold(scheme, "Bearer") && strings.TrimSpace(token) != "" {
		return nil
	}
	return apierror.New(codes.Unauthenticated, "TOKEN_REQUIRED", "The request has no token; send Authorization: Bearer TOKEN")
}

// CheckHeaderSize rejects requests whose forwarded headers and certificates exceed maxMetadataBytes in total.
func CheckHeaderSize(r *http.Request) *apierror.Error {
	size, noun := 0, "headers are"
	for _, certificate := range Certificates(r.Context()) {
		size += len(CertificateKey) + base64.StdEncoding.EncodedLen(len(certificate)) + headerOverhead
		noun = "client certificates and headers are"
	}
	for _, name := range AllowedHeaders {
		for _, value := range r.Header.Values(name) {
			size += len(name) + len(value) + headerOverhead
		}
	}
	if size <= maxMetadataBytes {
		return nil
	}
	detail := fmt.Sprintf("The forwarded %s too large; the limit is %d bytes in total", noun, maxMetadataBytes)
	return apierror.New(codes.InvalidArgument, "HEADERS_TOO_LARGE", detail).
		WithStatus(http.StatusRequestHeaderFieldsTooLarge)
}

// isNotPrintableASCII reports whether gRPC would reject text as a metadata value, with INTERNAL.
func isNotPrintableASCII(text string) bool {
	return strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r > '~' })
}

var (
	requestIDPattern   = regexp.MustCompile(`^[\x21-\x7e]{1,128}$`)
	traceparentPattern = regexp.MustCompile(`^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$`)
)

// SetRequestID sets X-Request-Id on the request and on the response. It generates an ID if the
// client sent none, several or a malformed one.
func SetRequestID(w http.ResponseWriter, r *http.Request) (requestID string) {
	requestID = r.Header.Get("X-Request-Id")
	if len(r.Header.Values("X-Request-Id")) != 1 || !requestIDPattern.MatchString(requestID) {
		requestID = rand.Text()
	}
	r.Header.Set("X-Request-Id", requestID)
	w.Header().Set("X-Request-Id", requestID)
	return requestID
}

// SetTraceparent copies a valid traceparent to the response and removes a malformed or
// repeated one from the request. A tracestate that metadata can't carry is removed, too.
func SetTraceparent(w http.ResponseWriter, r *http.Request) {
	values := r.Header.Values("Traceparent")
	if len(values) == 1 && traceparentPattern.MatchString(values[0]) {
		w.Header().Set("Traceparent", values[0])
		if slices.ContainsFunc(r.Header.Values("Tracestate"), isNotPrintableASCII) {
			r.Header.Del("Tracestate")
		}
		return
	}
	r.Header.Del("Traceparent")
	r.Header.Del("Tracestate")
}
