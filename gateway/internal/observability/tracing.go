// Need: operators: docs/operations/tracing.md.

package observability

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/jobs-grpc/jobs-grpc/gateway/internal/routes"
)

// exportTimeout is how long a process that stops waits for the remaining spans to be exported.
const exportTimeout = 3 * time.Second

// Tracer creates a span for each request. A nil *Tracer creates none.
type Tracer struct {
	provider *sdktrace.TracerProvider
	tracer   trace.Tracer
}

// NewTracer returns a tracer that exports spans to the collector that the OTEL_… environment
// variables of OpenTelemetry name; nil if they name none. Spans wait in a queue of
// OTEL_BSP_MAX_QUEUE_SIZE. If it is full, further ones are dropped.
func NewTracer(logger *slog.Logger) (*Tracer, error) {
	if !tracingConfigured(os.Getenv) {
		return nil, nil
	}
	ctx := context.Background()
	exporter, err := otlptracegrpc.New(ctx) // connects in the background
	if err != nil {
		return nil, fmt.Errorf("OTEL_EXPORTER_OTLP_…: %w", err)
	}
	// Later detectors win: OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES.
	attributes, err := resource.New(ctx, resource.WithTelemetrySDK(),
		resource.WithAttributes(attribute.String("service.name", "jobs-gateway")), resource.WithFromEnv())
	if err != nil {
		return nil, fmt.Errorf("OTEL_RESOURCE_ATTRIBUTES: %w", err)
	}
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) {
		logger.Warn("traces are not exported", "error", err)
	}))
	provider := sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter), sdktrace.WithResource(attributes))
	return &Tracer{provider, provider.Tracer("jobs-gateway")}, nil
}

// tracingConfigured reports whether the environment names a collector.
func tracingConfigured(getenv func(string) string) bool {
	exporter := getenv("OTEL_TRACES_EXPORTER")
	if getenv("OTEL_SDK_DISABLED") == "true" || exporter == "none" {
		return false
	}
	return exporter == "otlp" || getenv("OTEL_EXPORTER_OTLP_ENDPOINT") != "" || getenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") != ""
}

// start starts the span of a request other than a health check, in the trace of its traceparent if it has one. It replaces
// the traceparent, so that the server's span becomes a child.
func (t *Tracer) start(w http.ResponseWriter, r *http.Request, route *routes.Route, requestID string) trace.Span {
	if t == nil || route.IsHealthCheck() {
		return nil
	}
	propagator := propagation.TraceContext{}
	headers := propagation.HeaderCarrier(r.Header)
	ctx := propagator.Extract(r.Context(), headers)
	method := methodLabel(r.Method)
	ctx, span := t.tracer.Start(ctx, method+" "+route.Template, trace.WithSpanKind(trace.SpanKindServer), trace.WithAttributes(
		attribute.String("http.request.method", method),
		attribute.String("http.route", route.Template),
		attribute.String("jobs.request_id", requestID),
	))
	propagator.Inject(ctx, headers)
	w.Header().Set("Traceparent", r.Header.Get("Traceparent"))
	return span
}

// endSpan ends the span of a request with its status.
func endSpan(span trace.Span, status int) {
	if span == nil {
		return
	}
	span.SetAttributes(attribute.Int("http.response.status_code", status))
	if status >= http.StatusInternalServerError {
		span.SetStatus(codes.Error, "")
	}
	span.End()
}

// ShutDown flushes the remaining spans.
func (t *Tracer) ShutDown(logger *slog.Logger) {
	if t == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), exportTimeout)
	defer cancel()
	if err := t.provider.Shutdown(ctx); err != nil {
		logger.Warn("the last traces were not exported", "error", err)
	}
}
