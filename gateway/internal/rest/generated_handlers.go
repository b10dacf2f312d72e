package rest

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health/grpc_health_v1"

	jobsv1 "github.com/jobs-grpc/jobs-grpc/gateway/gen/fleet/jobs/v1"
	"github.com/jobs-grpc/jobs-grpc/gateway/internal/apierror"
	"github.com/jobs-grpc/jobs-grpc/gateway/internal/headers"
	"github.com/jobs-grpc/jobs-grpc/gateway/internal/routes"
)

// NewRoutes returns the routes of the OpenAPI document, with the handlers that grpc-gateway generates, and further ones.
func NewRoutes(openAPI []byte, further map[string]runtime.HandlerFunc, upstream grpc.ClientConnInterface, logger *slog.Logger) (routes.Table, error) {
	mux, err := newGatewayMux(upstream, logger)
	if err != nil {
		return nil, err
	}
	further["/healthz"] = withNoStore(generatedHandler(mux, http.MethodGet, "/healthz"))
	routes, err := routes.Load(openAPI, further)
	if err != nil {
		return nil, err
	}
	for _, r := range routes {
		for method, op := range r.Operations {
			if op.Handler != nil || op.ID == "WatchJob" || method == http.MethodHead {
				continue
			}
			if op.Handler = generatedHandler(mux, method, r.Template); op.Handler == nil {
				return nil, fmt.Errorf("%s %s: no rule in jobs.gateway.yaml", method, r.Template)
			}
		}
	}
	return routes, nil
}

// newGatewayMux returns the generated REST mapping with the JSON, headers and errors of this API. It is only for
// generatedHandler.
func newGatewayMux(upstream grpc.ClientConnInterface, logger *slog.Logger) (*runtime.ServeMux, error) {
	mux := runtime.NewServeMux(
		runtime.WithMarshalerOption(runtime.MIMEWildcard, &jsonMarshaler{}),
		runtime.WithIncomingHeaderMatcher(headers.MatchIncomingHeader),
		runtime.WithOutgoingHeaderMatcher(headers.MatchNoHeader),
		runtime.WithOutgoingTrailerMatcher(headers.MatchNoHeader),
		runtime.WithForwardResponseOption(setResponseHeaders),
		runtime.WithErrorHandler(newErrorHandler(logger)),
		runtime.WithWriteContentLength(),
		runtime.WithHealthzEndpoint(grpc_health_v1.NewHealthClient(upstream)),
		runtime.WithMiddlewares(func(generated runtime.HandlerFunc) runtime.HandlerFunc {
			return func(w http.ResponseWriter, _ *http.Request, _ map[string]string) {
				w.(*handlerLookup).found = generated
			}
		}),
		runtime.WithRoutingErrorHandler(func(context.Context, *runtime.ServeMux, runtime.Marshaler, http.ResponseWriter, *http.Request, int) {}),
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

// handlerLookup receives a generated handler.
type handlerLookup struct {
	http.ResponseWriter // nil
	found               runtime.HandlerFunc
}

// generatedHandler returns the generated handler of a route, or nil. The gateway looks up handlers at start and then
// calls them directly: grpc-gateway would match each request again.
func generatedHandler(mux *runtime.ServeMux, method, template string) runtime.HandlerFunc {
	var lookup handlerLookup
	mux.ServeHTTP(&lookup, &http.Request{Method: method, URL: &url.URL{Path: template}}) // a template matches itself
	return lookup.found
}

func withNoStore(next runtime.HandlerFunc) runtime.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request, variables map[string]string) {
		w.Header().Set("Cache-Control", "no-store")
		next(w, r, variables)
	}
}

// newErrorHandler returns grpc-gateway's hook that writes the response of every failed call.
func newErrorHandler(logger *slog.Logger) runtime.ErrorHandlerFunc {
	return func(ctx context.Context, _ *runtime.ServeMux, _ runtime.Marshaler, w http.ResponseWriter, r *http.Request, err error) {
		if body, ok := r.Body.(*requestBody); ok && body.err != nil {
			body.err.Write(w)
			return
		}
		e, fromService := apierror.FromGRPC(apierror.ResetAsUnavailable(r.Context(), err))
		if !fromService && e.HTTPStatus >= http.StatusInternalServerError {
			logger.WarnContext(ctx, "upstream call failed", "request_id", r.Header.Get("X-Request-Id"), "error", err.Error())
		}
		w.Header().Del("Trailer")
		w.Header().Del("Transfer-Encoding")
		e.Write(w)
	}
}
