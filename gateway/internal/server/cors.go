package server

import (
	"net/http"
	"net/url"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"

	"github.com/jobs-grpc/jobs-grpc/gateway/internal/apierror"
	"github.com/jobs-grpc/jobs-grpc/gateway/internal/config"
	"github.com/jobs-grpc/jobs-grpc/gateway/internal/headers"
)

// withCORS adds the CORS headers for web pages of the given origins and answers their preflight
// requests. It rejects web pages of other origins, except the origin that the request is sent to.
func withCORS(origins []string, next http.Handler) http.Handler {
	requestHeaders := strings.Join(append([]string{"content-type", "grpc-timeout", "last-event-id"}, headers.AllowedHeaders...), ", ")
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if len(origins) > 0 {
			w.Header().Add("Vary", "Origin")
		}
		origin := r.Header.Get("Origin")
		if !slices.Contains(origins, origin) {
			if origin != "" && !isSameOrigin(r, origin) {
				apierror.New(codes.PermissionDenied, "ORIGIN_NOT_ALLOWED", "Web pages of "+apierror.Truncate(origin)+
					" may not call this API; an administrator can list the origin in "+config.EnvName("cors-origins")).Write(w)
				return
			}
			next.ServeHTTP(w, r)
			return
		}
		w.Header().Set("Access-Control-Allow-Origin", origin)
		if r.Method == http.MethodOptions && r.Header.Get("Access-Control-Request-Method") != "" {
			w.Header().Set("Access-Control-Allow-Methods", "GET, POST, PATCH, DELETE")
			w.Header().Set("Access-Control-Allow-Headers", requestHeaders)
			w.Header().Set("Access-Control-Max-Age", "600")
			w.WriteHeader(http.StatusNoContent)
			return
		}
		w.Header().Set("Access-Control-Expose-Headers", "Link, Location, Retry-After, Traceparent, X-Next-Page-Token, X-Poll-After, X-Request-Id")
		next.ServeHTTP(w, r)
	})
}

// isSameOrigin reports whether a request with an Origin header comes from a page of the origin that it is
// sent to. Browsers say so in Sec-Fetch-Site, unless the page was loaded without TLS. A proxy may have
// changed the scheme, so only the host is compared.
func isSameOrigin(r *http.Request, origin string) bool {
	if site := r.Header.Get("Sec-Fetch-Site"); site != "" {
		return site == "same-origin" || site == "none"
	}
	u, err := url.Parse(origin)
	return err == nil && u.Host != "" &&
		strings.EqualFold(config.WithoutDefaultPort(u.Scheme, u.Host), config.WithoutDefaultPort(u.Scheme, r.Host))
}
