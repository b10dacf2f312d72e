package server

import (
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"

	"github.com/jobs-grpc/jobs-grpc/gateway/internal/apierror"
	"github.com/jobs-grpc/jobs-grpc/gateway/internal/config"
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
