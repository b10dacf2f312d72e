package main

import (
	"context"
	"log/slog"
	"net/http"

	"google.golang.org/grpc/codes"
)

// newHandler returns the handler of the REST listener. It ends watches when stopping is closed. A request passes, in this order:
// instrument, withNoSniff, withAllowedHosts, withCORS, withRequestLimit, the route check, the request checks, grpc-gateway.
func newHandler(stopping <-chan struct{}, openAPI []byte, config *Config, upstream *upstream, metrics *metrics, tracer *tracer, logger *slog.Logger) (http.Handler, error) {
	table, err := newRoutes(openAPI, newPages(openAPI), upstream, logger)
	if err != nil {
		return nil, err
	}
	memoryLimits := newMemoryLimits(config.MaxBufferedBytes)
	callers := upstream.newCallers(config.TrustedProxies)
	watches := newWatchHandler(stopping, config, upstream, memoryLimits)
	dispatch := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		client, unbounded := w, r.Context()
		ctx, cancel := context.WithTimeout(r.Context(), config.RequestTimeout)
		defer cancel()
		memory := newRequestMemory(memoryLimits, callers.identify(r))
		defer memory.release()
		w = &boundedWriter{ResponseWriter: w, memory: memory, timeout: config.RequestTimeout}
		r = r.WithContext(withRequestMemory(ctx, memory))
		m := matchFromContext(ctx)
		switch {
		case m.route == noRoute:
			if path := table.withoutSlash(r.URL); path != "" {
				redirect(w, r, path)
				return
			}
			newAPIError(codes.NotFound, "ROUTE_NOT_FOUND", "No such route; /openapi.json lists all routes").write(w)
			return
		case m.operation == nil:
			w.Header().Set("Allow", m.allowHeader())
			newAPIError(codes.Unimplemented, "METHOD_NOT_ALLOWED", "Method not allowed; use "+m.allowHeader()).
				withStatus(http.StatusMethodNotAllowed).write(w)
			return
		case m.operation.request != nil:
			w.Header().Set("Cache-Control", "no-store")
			if e := checkRequest(m, w, r, config); e != nil {
				e.write(w)
				return
			}
		}
		if m.operation.ID == "WatchJob" {
			watches.serve(client, r.WithContext(unbounded), memory.identity, m.variables["job_id"])
			return
		}
		m.operation.handler(w, r, m.variables)
	})
	limited := withRequestLimit(config.MaxRequestsInFlight, dispatch)
	allowed := withAllowedHosts(config.AllowedHosts, config.Listen, withCORS(config.CORSOrigins, limited))
	return instrument(table, metrics, tracer, logger, withNoSniff(allowed)), nil
}

// redirect redirects to a path of this API. 308 keeps the method and the body.
func redirect(w http.ResponseWriter, r *http.Request, path string) {
	if r.URL.RawQuery != "" {
		path += "?" + r.URL.RawQuery
	}
	w.Header().Set("Location", path)
	w.WriteHeader(http.StatusPermanentRedirect)
}

// withNoSniff tells browsers not to guess the content type of a response.
func withNoSniff(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Content-Type-Options", "nosniff")
		next.ServeHTTP(w, r)
	})
}
