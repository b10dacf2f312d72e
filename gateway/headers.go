package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
)

// The headers that become metadata. All others stay outside.
var allowedHeaders = []string{
	"authorization", "x-tenant-id", "x-user-id", "x-device-id", "x-request-id", "traceparent", "tracestate",
}

// Who calls must be said once, or the answer could be about somebody else.
var callerHeaders = []string{"X-Tenant-Id", "X-User-Id", "X-Device-Id", "Authorization"}

var (
	requestIDPattern   = regexp.MustCompile(`^[\x21-\x7e]{1,128}$`)
	traceparentPattern = regexp.MustCompile(`^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$`)
)

// What the server surely takes: from 8 KiB of metadata on gRPC's C core refuses calls at
// random. It counts headerOverhead for each header, and gRPC adds headers of its own.
const (
	maxMetadata    = 7 << 10
	headerOverhead = 32
)

// metadataKey is the gateway's header matcher: the allow-list. The library itself adds
// Authorization.
func metadataKey(header string) (string, bool) {
	key := strings.ToLower(header)
	return key, key != "authorization" && slices.Contains(allowedHeaders, key)
}

// noHeader is the matcher for what the server sends: nothing of it is for HTTP clients.
func noHeader(string) (string, bool) { return "", false }

// onlyAllowedMetadata holds back what the library adds of its own (X-Forwarded-*).
func onlyAllowedMetadata(
	ctx context.Context, method string, request, reply any, connection *grpc.ClientConn,
	invoke grpc.UnaryInvoker, options ...grpc.CallOption,
) error {
	all, _ := metadata.FromOutgoingContext(ctx)
	kept := metadata.MD{}
	for _, key := range allowedHeaders {
		if values := all.Get(key); len(values) > 0 {
			kept[key] = values
		}
	}
	return invoke(metadata.NewOutgoingContext(ctx, kept), method, request, reply, connection, options...)
}

// checkCaller refuses callers who are stated twice, or in characters that metadata can't carry
// (the library would drop the header, and with it the user's name).
func checkCaller(r *http.Request) *problem {
	for _, name := range callerHeaders {
		values := r.Header.Values(name)
		if len(values) > 1 {
			return newProblem(codes.Unauthenticated, "DUPLICATE_METADATA", name+" was sent more than once; send it once")
		}
		if len(values) == 1 && !isPrintableASCII(values[0]) {
			return newProblem(codes.Unauthenticated, "INVALID_METADATA", name+" must be printable ASCII")
		}
	}
	return nil
}

// checkToken refuses callers without a token, if one is required. The server verifies it.
func checkToken(r *http.Request, required bool) *problem {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !required || strings.EqualFold(scheme, "Bearer") && strings.TrimSpace(token) != "" {
		return nil
	}
	return newProblem(codes.Unauthenticated, "TOKEN_REQUIRED", "The call has no token: send Authorization: Bearer TOKEN")
}

// checkSize refuses headers that are together more than the server takes.
func checkSize(r *http.Request) *problem {
	size := 0
	for _, name := range allowedHeaders {
		for _, value := range r.Header.Values(name) {
			size += len(name) + len(value) + headerOverhead
		}
	}
	if size <= maxMetadata {
		return nil
	}
	detail := fmt.Sprintf("The headers for the service are too large; together they may have %d bytes", maxMetadata)
	return newProblem(codes.InvalidArgument, "HEADERS_TOO_LARGE", detail).
		withStatus(http.StatusRequestHeaderFieldsTooLarge)
}

func isPrintableASCII(text string) bool {
	for i := range len(text) {
		if text[i] < 0x20 || text[i] > 0x7e {
			return false
		}
	}
	return true
}

// nameRequest settles the request's id and trace, on the request and on the answer.
func nameRequest(w http.ResponseWriter, r *http.Request) (requestID string) {
	requestID = r.Header.Get("X-Request-Id")
	if len(r.Header.Values("X-Request-Id")) != 1 || !requestIDPattern.MatchString(requestID) {
		requestID = rand.Text()
	}
	r.Header.Set("X-Request-Id", requestID)
	w.Header().Set("X-Request-Id", requestID)
	trace := r.Header.Values("Traceparent")
	if len(trace) == 1 && traceparentPattern.MatchString(trace[0]) {
		w.Header().Set("Traceparent", trace[0])
	} else {
		r.Header.Del("Traceparent")
		r.Header.Del("Tracestate")
	}
	return requestID
}
