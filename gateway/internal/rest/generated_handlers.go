// Package rest checks requests, decodes their bodies, and calls the handlers that grpc-gateway generates.
package rest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health/grpc_health_v1"

	jobsv1 "github.com/jobs-grpc/jobs-grpc/gateway/gen/fleet/jobs/v1"
	"github.com/jobs-grpc/jobs-grpc/gateway/internal/apierror"
	"github.com/jobs-grpc/jobs-grpc/gateway/internal/routes"
)

// NewRoutes returns the routes of the OpenAPI document, with the handlers that grpc-gateway generates, and further ones.
func NewRoutes(
	openAPI []byte, further map[string]runtime.HandlerFunc, upstream grpc.ClientConnInterface, logger *slog.Logger,
) (routes.Table, error) {
	generated, err := generatedHandlers(upstream, logger)
	if err != nil {
		return nil, err
	}
	further["/healthz"] = generated(http.MethodGet, "/healthz")
	table, err := routes.Load(openAPI, further)
	if err != nil {
		return nil, err
	}
	for _, r := range table {
		for method, op := range r.Operations {
			if op.Handler != nil || op.IsStream() || method == http.MethodHead {
				continue
			}
			if op.Handler = generated(method, r.Template); op.Handler == nil {
				return nil, fmt.Errorf("%s %s: no rule in rest_routes.yaml", method, r.Template)
			}
		}
	}
	return table, nil
}

// generatedHandlers returns a function that looks up the generated handler of a route, or nil. The handlers have the
// JSON, headers and errors of this API. The gateway looks them up at start and then calls them directly, because
// grpc-gateway would match each request again.
func generatedHandlers(upstream grpc.ClientConnInterface, logger *slog.Logger) (func(method, template string) runtime.HandlerFunc, error) {
	var found runtime.HandlerFunc
	noHeader := func(string) (string, bool) { return "", false } // Upstream sets the metadata of a call
	mux := runtime.NewServeMux(
		runtime.WithMarshalerOption(runtime.MIMEWildcard, &jsonMarshaler{}),
		runtime.WithIncomingHeaderMatcher(noHeader),
		runtime.WithOutgoingHeaderMatcher(noHeader),
		runtime.WithOutgoingTrailerMatcher(noHeader),
		runtime.WithForwardResponseOption(setResponseHeaders),
		runtime.WithErrorHandler(newErrorHandler(logger)),
		runtime.WithWriteContentLength(),
		runtime.WithHealthzEndpoint(grpc_health_v1.NewHealthClient(upstream)),
		runtime.WithMiddlewares(func(generated runtime.HandlerFunc) runtime.HandlerFunc {
			return func(http.ResponseWriter, *http.Request, map[string]string) { found = generated }
		}),
		runtime.WithRoutingErrorHandler(func(context.Context, *runtime.ServeMux, runtime.Marshaler, http.ResponseWriter, *http.Request, int) {}),
	)
	lookUp := func(method, template string) runtime.HandlerFunc {
		found = nil
		mux.ServeHTTP(nil, &http.Request{Method: method, URL: &url.URL{Path: template}}) // a template matches itself
		return found
	}
	return lookUp, errors.Join(
		jobsv1.RegisterJobServiceHandlerClient(context.Background(), mux, jobsv1.NewJobServiceClient(upstream)),
		jobsv1.RegisterFleetServiceHandlerClient(context.Background(), mux, jobsv1.NewFleetServiceClient(upstream)),
		jobsv1.RegisterEventServiceHandlerClient(context.Background(), mux, jobsv1.NewEventServiceClient(upstream)),
		jobsv1.RegisterDeviceJobServiceHandlerClient(context.Background(), mux, jobsv1.NewDeviceJobServiceClient(upstream)),
	)
}

// newErrorHandler returns grpc-gateway's hook that writes the response of every failed call.
func newErrorHandler(logger *slog.Logger) runtime.ErrorHandlerFunc {
	return func(ctx context.Context, _ *runtime.ServeMux, _ runtime.Marshaler, w http.ResponseWriter, r *http.Request, err error) {
		if body, ok := r.Body.(*requestBody); ok && body.err != nil {
			body.err.Write(w)
			return
		}
		e := apierror.FromGRPC(r.Context(), err)
		if !e.FromService && e.HTTPStatus >= http.StatusInternalServerError {
			logger.WarnContext(ctx, "upstream call failed", "request_id", r.Header.Get("X-Request-Id"), "error", err.Error())
		}
		w.Header().Del("Trailer")
		w.Header().Del("Transfer-Encoding")
		e.Write(w)
	}
}
