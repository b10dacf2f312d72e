// Package rest checks requests, decodes their bodies, and calls the handlers that grpc-gateway generates.
//
// Need: clients rely on status 201, Location and the headers of the next page.
package rest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

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

// setResponseHeaders sets the status 201 and Location of what was created, the headers that point to
// the next page of a list, and X-Poll-After and X-Ended-Executions for devices. grpc-gateway calls
// it before it writes the body.
func setResponseHeaders(ctx context.Context, w http.ResponseWriter, response proto.Message) error {
	m := routes.MatchFromContext(ctx)
	if response, ok := response.(interface{ GetPollAfter() *durationpb.Duration }); ok && response.GetPollAfter() != nil {
		// Duration.Seconds() has rounding errors: 3.7880000000000003.
		milliseconds := response.GetPollAfter().AsDuration().Round(time.Millisecond).Milliseconds()
		w.Header().Set("X-Poll-After", strconv.FormatFloat(float64(milliseconds)/1000, 'f', -1, 64))
	}
	switch response := response.ProtoReflect().Interface().(type) {
	case *jobsv1.CreateJobResponse:
		if response.GetPreview() != nil { // validate_only: nothing was created
			return nil
		}
		// JoinPath would resolve the IDs "." and "..".
		w.Header().Set("Location", m.Path()+"/"+routes.EscapeSegment(response.GetJobId()))
		w.WriteHeader(http.StatusCreated)
	case *jobsv1.CreateWebhookResponse:
		w.Header().Set("Location", m.Path()+"/"+response.GetWebhook().GetWebhookId())
		w.WriteHeader(http.StatusCreated)
	case *jobsv1.ListPendingExecutionsResponse:
		setEndedExecutions(w, response.GetEndedExecutions())
		setNextPage(w, m.Path(), m.Query, response.GetNextPageToken())
	case interface{ GetNextPageToken() string }: // every other list
		setNextPage(w, m.Path(), m.Query, response.GetNextPageToken())
	case *jobsv1.GetJobResponse:
		setNextPage(w, m.Path()+"/executions", url.Values{}, response.GetJob().GetNextExecutionsPageToken())
	}
	return nil
}

// setEndedExecutions sets X-Ended-Executions, because the body of the list is an array of pending executions. Proxies
// limit headers to a few KiB, so it has at most 20: when the device has acknowledged them, it gets the next ones.
func setEndedExecutions(w http.ResponseWriter, ended []*jobsv1.EndedExecution) {
	var values []string
	for _, each := range ended[:min(len(ended), 20)] {
		values = append(values, fmt.Sprintf("%s %d %s", each.GetJobId(), each.GetExecutionNumber(), each.GetEndCause()))
	}
	if values != nil {
		w.Header().Set("X-Ended-Executions", strings.Join(values, ", "))
	}
}

// setNextPage sets X-Next-Page-Token and Link, unless token is empty: then this is the last page.
func setNextPage(w http.ResponseWriter, path string, query url.Values, token string) {
	if token == "" {
		return
	}
	query.Del("offset") // the token includes the position
	query.Set("page_token", token)
	w.Header().Set("X-Next-Page-Token", token)
	w.Header().Set("Link", "<"+path+"?"+query.Encode()+`>; rel="next"`)
}
