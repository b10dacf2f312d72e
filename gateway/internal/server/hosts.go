// Need: web pages of the listed origins. Attacks: DNS rebinding, and pages of other origins (docs/threat-model).

package server

import (
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"

	"github.com/jobs-grpc/jobs-grpc/gateway/internal/apierror"
	"github.com/jobs-grpc/jobs-grpc/gateway/internal/config"
	"github.com/jobs-grpc/jobs-grpc/gateway/internal/headers"
)

// withAllowedHosts rejects requests whose Host header is not in allowed. Loopback names are
// always allowed, and so is a request without Host. If allowed is empty, listen decides: a
// loopback listener accepts only loopback names, any other listener accepts every host. Beyond loopback, health
// checks are always allowed: probes of Kubernetes have the address of the pod as Host.
//
// A web page whose DNS name resolves to 127.0.0.1 has the same origin as a gateway there
// (DNS rebinding). Its requests have its own name as Host.
func withAllowedHosts(allowed []string, listen string, next http.Handler) http.Handler {
	if slices.Contains(allowed, "*") || len(allowed) == 0 && !config.IsLoopback(listen) {
		return next
	}
	allowsHealthChecks := !config.IsLoopback(listen)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if allowsHealthChecks && r.URL.Path == "/healthz" {
			next.ServeHTTP(w, r)
			return
		}
		host := hostName(r.Host)
		matchesHost := func(name string) bool { return strings.EqualFold(hostName(name), host) }
		if !isLoopbackHost(host) && !slices.ContainsFunc(allowed, matchesHost) {
			apierror.New(codes.PermissionDenied, "HOST_NOT_ALLOWED", "The gateway does not serve this host; an administrator can list it in "+
				config.EnvName("allowed-hosts")).Write(w)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// hostName returns the host of a Host header without its port and without the brackets of an
// IPv6 address.
func hostName(hostPort string) string {
	if host, _, err := net.SplitHostPort(hostPort); err == nil {
		return host
	}
	return strings.TrimSuffix(strings.TrimPrefix(hostPort, "["), "]")
}

// isLoopbackHost reports whether host means this machine. Only HTTP/1.0 clients omit the Host
// header, and no browser is one.
func isLoopbackHost(host string) bool {
	address, err := netip.ParseAddr(host)
	return host == "" || strings.EqualFold(host, "localhost") || err == nil && address.IsLoopback()
}

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
		w.Header().Set("Access-Control-Expose-Headers", "Link, Location, Retry-After, Traceparent, X-Ended-Executions, X-Next-Page-Token, X-Poll-After, X-Request-Id")
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
