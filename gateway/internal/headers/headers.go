package headers

import (
	"context"
	"fmt"
	"net/http"
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

// MatchIncomingHeader is the header matcher for requests. It leaves out Authorization, which
// grpc-gateway always forwards.
func MatchIncomingHeader(header string) (string, bool) {
	key := strings.ToLower(header)
	return key, key != "authorization" && slices.Contains(AllowedHeaders, key)
}

// MatchNoHeader is the header matcher for responses: it hides all metadata of the gRPC server.
func MatchNoHeader(string) (string, bool) { return "", false }

// ForwardedMetadata returns the headers of a request that are forwarded.
func ForwardedMetadata(r *http.Request) metadata.MD {
	forwarded := metadata.MD{}
	for _, name := range AllowedHeaders {
		if values := r.Header.Values(name); len(values) > 0 {
			forwarded[name] = values
		}
	}
	return forwarded
}

// WithAllowedMetadata returns a context that sends only AllowedHeaders. grpc-gateway would also
// send X-Forwarded-For and X-Forwarded-Host.
func WithAllowedMetadata(ctx context.Context) context.Context {
	all, _ := metadata.FromOutgoingContext(ctx)
	allowed := metadata.MD{}
	for _, key := range AllowedHeaders {
		if values := all.Get(key); len(values) > 0 {
			allowed[key] = values
		}
	}
	return metadata.NewOutgoingContext(ctx, allowed)
}

// CheckIdentityHeaders rejects identity headers that are repeated or not printable ASCII.
// grpc-gateway drops a header that metadata can't carry, and created_by would get lost.
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

// CheckBearerToken rejects requests without a token if required is set. The gRPC server
// verifies the token.
func CheckBearerToken(r *http.Request, required bool) *apierror.Error {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !required || strings.EqualFold(scheme, "Bearer") && strings.TrimSpace(token) != "" {
		return nil
	}
	return apierror.New(codes.Unauthenticated, "TOKEN_REQUIRED", "The request has no token; send Authorization: Bearer TOKEN")
}

// CheckHeaderSize rejects requests whose forwarded headers exceed maxMetadataBytes in total.
func CheckHeaderSize(r *http.Request) *apierror.Error {
	size := 0
	for _, name := range AllowedHeaders {
		for _, value := range r.Header.Values(name) {
			size += len(name) + len(value) + headerOverhead
		}
	}
	if size <= maxMetadataBytes {
		return nil
	}
	detail := fmt.Sprintf("The forwarded headers are too large; the limit is %d bytes in total", maxMetadataBytes)
	return apierror.New(codes.InvalidArgument, "HEADERS_TOO_LARGE", detail).
		WithStatus(http.StatusRequestHeaderFieldsTooLarge)
}

// isNotPrintableASCII reports whether gRPC would reject text as a metadata value, with INTERNAL.
func isNotPrintableASCII(text string) bool {
	for i := range len(text) {
		if text[i] < 0x20 || text[i] > 0x7e {
			return true
		}
	}
	return false
}
