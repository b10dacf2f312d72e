package main

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"strings"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health/grpc_health_v1"

	jobsv1 "github.com/jobs-grpc/jobs-grpc/gateway/gen/fleet/jobs/v1"
)

// newHandler returns the handler of the REST listener. It ends watches when stopping is closed. A request passes, in this order:
// instrument, withNoSniff, withAllowedHosts, withCORS, withRequestLimit, the route check, the request checks, grpc-gateway.
func newHandler(stopping <-chan struct{}, config *Config, upstream *upstream, metrics *metrics, tracer *tracer, logger *slog.Logger) (http.Handler, error) {
	routes, err := loadRoutes(openAPI)
	if err != nil {
		return nil, err
	}
	gateway, err := newGatewayMux(upstream, logger)
	if err != nil {
		return nil, err
	}
	pageHandler := newPagesHandler()
	limits := newMemoryLimits(config.MaxBufferedBytes)
	callers := newCallers(upstream, config.TrustedProxies)
	bodies := &bodyDecoder{config.MaxBodyBytes}
	watches := newWatchHandler(stopping, config, upstream, limits)
	dispatch := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		client, unbounded := w, r.Context()
		ctx, cancel := context.WithTimeout(r.Context(), config.RequestTimeout)
		defer cancel()
		memory := newRequestMemory(limits, callers.identify(r))
		defer memory.release()
		w = &boundedWriter{ResponseWriter: w, memory: memory, timeout: config.RequestTimeout}
		r = r.WithContext(withRequestURL(withRequestMemory(ctx, memory), r.URL))
		route := routeFromContext(ctx)
		switch {
		case route == nil:
			if path := routes.matchWithoutSlash(r.URL); path != "" {
				redirect(w, r, path)
				return
			}
			newAPIError(codes.NotFound, "ROUTE_NOT_FOUND", "No such route; /openapi.json lists all routes").write(w)
			return
		case !route.allows(r.Method):
			w.Header().Set("Allow", route.allowHeader())
			newAPIError(codes.Unimplemented, "METHOD_NOT_ALLOWED", "Method not allowed; use "+route.allowHeader()).
				withStatus(http.StatusMethodNotAllowed).write(w)
			return
		case route.template == "/openapi.json":
			serveOpenAPI(w, r)
			return
		case route.template == "/" || strings.HasPrefix(route.template, "/docs"):
			pageHandler.ServeHTTP(w, r)
			return
		}
		w.Header().Set("Cache-Control", "no-store")
		if op := route.operations[r.Method]; op != nil {
			if e := checkRequest(op, route.template, w, r, config, bodies); e != nil {
				e.write(w)
				return
			}
			if op.ID == "WatchJob" {
				watches.serve(client, r.WithContext(unbounded), memory.identity, pathVariables(route.template, r)["job_id"])
				return
			}
		}
		if r.Method == http.MethodHead {
			// net/http sends the headers of the response to GET and drops its body.
			get := *r
			get.Method = http.MethodGet
			r = &get
		}
		gateway.ServeHTTP(w, r)
	})
	limited := withRequestLimit(config.MaxRequestsInFlight, dispatch)
	allowed := withAllowedHosts(config.AllowedHosts, config.Listen, withCORS(config.CORSOrigins, limited))
	return instrument(routes, metrics, tracer, logger, withNoSniff(allowed)), nil
}

// checkRequest rejects requests that grpc-gateway would accept although a part is unknown,
// repeated or dropped, or would reject without naming the field. It replaces the body with the
// decoded message. The gRPC server validates the values.
func checkRequest(op *operation, template string, w http.ResponseWriter, r *http.Request, config *Config, bodies *bodyDecoder) *apiError {
	if e := cmp.Or(checkIdentityHeaders(r), checkBearerToken(r, config.RequireToken), checkHeaderSize(r), checkPath(op, template, r)); e != nil {
		return e
	}
	if e := checkQuery(op, r); e != nil {
		return e
	}
	return bodies.decode(op, w, r)
}

// redirect redirects to a path of this API. 308 keeps the method and the body.
func redirect(w http.ResponseWriter, r *http.Request, path string) {
	if r.URL.RawQuery != "" {
		path += "?" + r.URL.RawQuery
	}
	w.Header().Set("Location", path)
	w.WriteHeader(http.StatusPermanentRedirect)
}

// newGatewayMux returns the generated REST mapping with the JSON, headers and errors of this API.
func newGatewayMux(upstream *upstream, logger *slog.Logger) (http.Handler, error) {
	mux := runtime.NewServeMux(
		runtime.WithMarshalerOption(runtime.MIMEWildcard, &jsonMarshaler{}),
		runtime.WithIncomingHeaderMatcher(matchIncomingHeader),
		runtime.WithOutgoingHeaderMatcher(matchNoHeader),
		runtime.WithOutgoingTrailerMatcher(matchNoHeader),
		runtime.WithForwardResponseOption(setResponseHeaders),
		runtime.WithErrorHandler(newErrorHandler(logger)),
		// Unescape path parameters only after splitting the path: a device ID may contain a slash.
		runtime.WithUnescapingMode(runtime.UnescapingModeAllExceptSlash),
		runtime.WithDisableHTTPMethodOverride(),
		runtime.WithDisablePathLengthFallback(),
		runtime.WithWriteContentLength(),
		runtime.WithHealthzEndpoint(grpc_health_v1.NewHealthClient(upstream)),
	)
	jobs, deviceJobs := jobsv1.NewJobServiceClient(upstream), jobsv1.NewDeviceJobServiceClient(upstream)
	if err := jobsv1.RegisterJobServiceHandlerClient(context.Background(), mux, jobs); err != nil {
		return nil, fmt.Errorf("register JobService: %w", err)
	}
	if err := jobsv1.RegisterDeviceJobServiceHandlerClient(context.Background(), mux, deviceJobs); err != nil {
		return nil, fmt.Errorf("register DeviceJobService: %w", err)
	}
	return mux, nil
}
