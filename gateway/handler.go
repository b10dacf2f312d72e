package main

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"strings"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health/grpc_health_v1"

	jobsv1 "github.com/jobs-grpc/jobs-grpc/gateway/gen/fleet/jobs/v1"
)

// newHandler is everything between the HTTP server and the gRPC connection:
// observe -> recover -> CORS -> route -> check -> translate.
func newHandler(config *Config, upstream *grpc.ClientConn, metrics *metrics, logger *slog.Logger) (http.Handler, error) {
	all, err := readRoutes(openAPI)
	if err != nil {
		return nil, err
	}
	api, err := newTranslator(upstream, logger)
	if err != nil {
		return nil, err
	}
	docs := docsPage()
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), config.Timeout)
		defer cancel()
		r = r.WithContext(withURL(ctx, r.URL))
		matched := routeOf(ctx)
		switch {
		case matched == nil:
			newProblem(codes.NotFound, "ROUTE_NOT_FOUND", "There is nothing at this path; /openapi.json lists what there is").write(w)
			return
		case !matched.takes(r.Method):
			w.Header().Set("Allow", matched.allow())
			newProblem(codes.Unimplemented, "METHOD_NOT_ALLOWED", "This path takes "+matched.allow()+" only").
				withStatus(http.StatusMethodNotAllowed).write(w)
			return
		case matched.template == "/openapi.json":
			serveOpenAPI(w, r)
			return
		case strings.HasPrefix(matched.template, "/docs"):
			docs.ServeHTTP(w, r)
			return
		}
		w.Header().Set("Cache-Control", "no-store")
		if o := matched.operations[r.Method]; o != nil {
			if p := cmp.Or(checkCaller(r), checkToken(r, config.RequireToken), checkSize(r)); p != nil {
				p.write(w)
				return
			}
			if p := checkRequest(o, w, r, config.MaxBodyBytes); p != nil {
				p.write(w)
				return
			}
		}
		api.ServeHTTP(w, r)
	})
	return observe(all, metrics, logger, secure(allowOrigins(config.CORSOrigins, handler))), nil
}

// newTranslator is the generated REST mapping.
func newTranslator(upstream *grpc.ClientConn, logger *slog.Logger) (http.Handler, error) {
	mux := runtime.NewServeMux(
		runtime.WithMarshalerOption(runtime.MIMEWildcard, &shapes{}),
		runtime.WithIncomingHeaderMatcher(metadataKey),
		runtime.WithOutgoingHeaderMatcher(noHeader),
		runtime.WithOutgoingTrailerMatcher(noHeader),
		runtime.WithForwardResponseOption(shapeAnswer),
		runtime.WithErrorHandler(handleError(logger)),
		// Device ids may hold a slash; with this the library unescapes after it has split.
		runtime.WithUnescapingMode(runtime.UnescapingModeAllExceptSlash),
		runtime.WithDisableHTTPMethodOverride(),
		runtime.WithDisablePathLengthFallback(),
		runtime.WithWriteContentLength(),
		runtime.WithHealthzEndpoint(grpc_health_v1.NewHealthClient(upstream)),
	)
	operators, devices := jobsv1.NewJobServiceClient(upstream), jobsv1.NewDeviceJobServiceClient(upstream)
	if err := jobsv1.RegisterJobServiceHandlerClient(context.Background(), mux, operators); err != nil {
		return nil, fmt.Errorf("REST mapping: %w", err)
	}
	if err := jobsv1.RegisterDeviceJobServiceHandlerClient(context.Background(), mux, devices); err != nil {
		return nil, fmt.Errorf("REST mapping: %w", err)
	}
	return mux, nil
}

// secure keeps browsers from guessing types.
func secure(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Content-Type-Options", "nosniff")
		next.ServeHTTP(w, r)
	})
}
