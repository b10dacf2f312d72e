// Need: the OpenAPI document: other paths and methods get 404 and 405. The limit max-requests-in-flight.

package server

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"path"
	"strconv"
	"strings"

	"google.golang.org/grpc/codes"

	"github.com/jobs-grpc/jobs-grpc/gateway/internal/apierror"
	"github.com/jobs-grpc/jobs-grpc/gateway/internal/config"
	"github.com/jobs-grpc/jobs-grpc/gateway/internal/console"
	"github.com/jobs-grpc/jobs-grpc/gateway/internal/headers"
	"github.com/jobs-grpc/jobs-grpc/gateway/internal/limits"
	"github.com/jobs-grpc/jobs-grpc/gateway/internal/observability"
	"github.com/jobs-grpc/jobs-grpc/gateway/internal/pages"
	"github.com/jobs-grpc/jobs-grpc/gateway/internal/rest"
	"github.com/jobs-grpc/jobs-grpc/gateway/internal/routes"
	"github.com/jobs-grpc/jobs-grpc/gateway/internal/upstream"
	"github.com/jobs-grpc/jobs-grpc/gateway/internal/watch"
)

// maxHealthChecks limits the health checks in flight. They have slots of their own, so that a load balancer does not take
// an overloaded gateway for a broken one. Callers without credentials have 100 of them, and one address 50.
const maxHealthChecks = 400

// devicePrefix is the prefix of the routes that device-listen serves.
const devicePrefix = "/device/"

// newHandlers returns the handlers of listen and of device-listen, which share their limits. They end watches when stopping
// is closed. A request passes, in this order: withBoundedFlushes, Instrument, withSecurityHeaders, withAllowedHosts,
// withCORS, the limit of requests in flight, the check of the route, the checks of the request, the handler of its
// operation. At device-listen, it passes withCertificates first, any host is allowed, and no web page of another origin is.
func newHandlers(
	stopping <-chan struct{}, openAPI []byte, config *config.Config, upstream *upstream.Upstream,
	metrics *observability.Metrics, tracer *observability.Tracer, logger *slog.Logger,
) (api, devices http.Handler, err error) {
	further := pages.New(openAPI, config)
	maps.Copy(further, console.New(config))
	table, err := rest.NewRoutes(openAPI, further, upstream, logger)
	if err != nil {
		return nil, nil, err
	}
	memoryLimits := limits.NewMemoryLimits(config.MaxBufferedBytes)
	callers := upstream.NewCallers(config.TrustedProxies)
	watches := watch.NewHandler(stopping, config, upstream, memoryLimits)
	slots := limits.NewLimit(config.MaxRequestsInFlight, "max-requests-in-flight", config.MaxRequestsInFlight)
	healthSlots := limits.NewLimit(maxHealthChecks, "max-requests-in-flight", config.MaxRequestsInFlight)
	dispatch := func(table routes.Table, w http.ResponseWriter, r *http.Request) {
		client, unbounded := w, r.Context()
		ctx, cancel := context.WithTimeout(r.Context(), config.RequestTimeout)
		defer cancel()
		memory := limits.NewRequestMemory(memoryLimits, callers.Identify(r))
		defer memory.Release()
		w = &limits.BoundedWriter{ResponseWriter: w, Memory: memory, Timeout: config.RequestTimeout}
		r = r.WithContext(limits.WithRequestMemory(ctx, memory))
		m := routes.MatchFromContext(ctx)
		if m.Operation == nil || !m.Operation.IsStream() {
			slot := memory.Reservation(slots)
			if m.IsHealthCheck() {
				slot = memory.Reservation(healthSlots)
			}
			if e := takeSlot(ctx, m, slot); e != nil {
				e.Write(w)
				return
			}
			defer slot.Release()
		}
		switch {
		case m.Route == routes.NoRoute:
			path, detail := table.WithoutSlash(r.URL), "No such route; /openapi.json lists all routes"
			if path != "" && followsRedirects(r.Method) {
				redirect(w, r, path)
				return
			}
			if path != "" { // not advice to omit the slash: that is the path of the job
				detail = "No such route: the path ends with a slash. Clients resolve the ID '..' in paths; use gRPC for it"
			}
			apierror.New(codes.NotFound, "ROUTE_NOT_FOUND", detail).Write(w)
			return
		case m.Operation == nil:
			w.Header().Set("Allow", m.AllowHeader())
			detail := "Method not allowed; use " + m.AllowHeader() + unknownVerb(m, r)
			apierror.New(codes.Unimplemented, "METHOD_NOT_ALLOWED", detail).
				WithStatus(http.StatusMethodNotAllowed).Write(w)
			return
		case m.IsHealthCheck():
			w.Header().Set("Cache-Control", "no-store")
		case m.Operation.Request != nil:
			w.Header().Set("Cache-Control", "no-store")
			if e := rest.CheckRequest(m, w, r, config); e != nil {
				e.Write(w)
				return
			}
		}
		switch m.Operation.ID {
		case "WatchJob":
			watches.ServeJob(client, r.WithContext(unbounded), memory.Identity, m.Variables["job_id"])
			return
		case "WatchEvents":
			watches.ServeEvents(client, r.WithContext(unbounded), memory.Identity, m.Query)
			return
		}
		m.Operation.Handler(w, r, m.Variables)
	}
	log := observability.NewAccessLog(logger, config.TrustedProxies)
	serve := func(table routes.Table, corsOrigins []string, withHosts func(http.Handler) http.Handler) http.Handler {
		dispatched := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { dispatch(table, w, r) })
		allowed := withHosts(withCORS(corsOrigins, dispatched))
		instrumented := observability.Instrument(table, metrics, tracer, log, withSecurityHeaders(config.HSTSMaxAge, allowed))
		return withBoundedFlushes(config, instrumented)
	}
	api = serve(table, config.CORSOrigins, func(next http.Handler) http.Handler {
		return withAllowedHosts(config.AllowedHosts, config.Listen, next)
	})
	devices = serve(table.Below(devicePrefix), nil, func(next http.Handler) http.Handler { return next })
	return api, withCertificates(devices), nil
}

// withCertificates identifies the callers by their client certificates, which the TLS configuration requires.
func withCertificates(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		next.ServeHTTP(w, headers.WithCertificates(r, r.TLS.PeerCertificates))
	})
}

// takeSlot takes a slot for a request, which counts for its address or, if that share is used up, for its tenant. Streams
// have slots of their own: see package watch.
func takeSlot(ctx context.Context, m *routes.Match, slot *limits.Reservation) *apierror.Error {
	if m.Operation == nil || m.Operation.Request == nil {
		return slot.Resize(1) // a page, for example: it needs no caller
	}
	return slot.TryReserve(ctx, 1)
}

// followsRedirects reports whether a path with a slash at its end is redirected with this method. DELETE and
// PATCH are not: clients and proxies resolve ".." in a URL, so DELETE …/jobs/a/executions/.. arrives as
// DELETE …/jobs/a/, and the redirect would cancel the job.
func followsRedirects(method string) bool {
	return method == http.MethodGet || method == http.MethodHead || method == http.MethodPost
}

// unknownVerb returns a remark about the custom verb of a POST request that its route does not have, or "".
func unknownVerb(m *routes.Match, r *http.Request) string {
	segment := path.Base(r.URL.EscapedPath())
	colon := strings.LastIndexByte(segment, ':')
	if r.Method != http.MethodPost || colon < 0 || strings.Contains(m.Template, ":") {
		return ""
	}
	return fmt.Sprintf("; the verb %q is unknown", apierror.Truncate(segment[colon:]))
}

// redirect redirects to a path of this API. 308 keeps the method and the body.
func redirect(w http.ResponseWriter, r *http.Request, path string) {
	if r.URL.RawQuery != "" {
		path += "?" + r.URL.RawQuery
	}
	w.Header().Set("Location", path)
	w.WriteHeader(http.StatusPermanentRedirect)
}

// withSecurityHeaders tells browsers not to guess the content type of a response, and to use only HTTPS for
// hstsMaxAge seconds unless it is 0.
func withSecurityHeaders(hstsMaxAge int64, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Content-Type-Options", "nosniff")
		if hstsMaxAge > 0 {
			w.Header().Set("Strict-Transport-Security", "max-age="+strconv.FormatInt(hstsMaxAge, 10))
		}
		next.ServeHTTP(w, r)
	})
}
