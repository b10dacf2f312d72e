// Package observability has the access log, the metrics and the traces of requests.
//
// Need: operators, who need the rate, the errors and the duration of requests.
package observability

import (
	"errors"
	"io"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"google.golang.org/grpc/codes"

	"github.com/jobs-grpc/jobs-grpc/gateway/internal/apierror"
	"github.com/jobs-grpc/jobs-grpc/gateway/internal/headers"
	"github.com/jobs-grpc/jobs-grpc/gateway/internal/routes"
)

// Instrument is the outermost middleware. It sets the request ID, matches the request, records
// metrics, makes the span, writes the access log, and turns a panic into a 500 response.
func Instrument(table routes.Table, metrics *Metrics, t *Tracer, log *AccessLog, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		started := time.Now()
		metrics.requestsInFlight.Inc()
		defer metrics.requestsInFlight.Dec()
		requestID := headers.SetRequestID(w, r)
		headers.SetTraceparent(w, r)
		m := table.Match(r)
		span := t.start(w, r, m.Route, requestID)
		recorder := &responseRecorder{ResponseWriter: w, status: http.StatusOK}
		request := r.WithContext(routes.WithMatch(r.Context(), m)) // a copy: net/http needs the body of r
		if r.ProtoMajor == 1 && r.Body != http.NoBody {
			recorder.body = &trackedBody{ReadCloser: r.Body}
			request.Body = recorder.body
		}
		func() {
			defer recoverPanic(recorder, requestID, log.logger)
			next.ServeHTTP(recorder, request)
		}()

		duration := time.Since(started)
		endSpan(span, recorder.status)
		metrics.observe(r.Method, m.Template, recorder.status, duration)
		log.write(r, m, recorder, duration)
	})
}

// recoverPanic logs a panic of the handler and responds with 500 if no response has started.
func recoverPanic(w *responseRecorder, requestID string, logger *slog.Logger) {
	if cause := recover(); cause != nil {
		logger.Error("panic", "cause", cause, "request_id", requestID, "stack", string(debug.Stack()))
		if !w.started {
			apierror.New(codes.Internal, "INTERNAL", "Internal error").Write(w)
		}
	}
}

// responseRecorder records the status and the size of a response for metrics and the log.
type responseRecorder struct {
	http.ResponseWriter
	status  int
	bytes   int64
	started bool
	body    *trackedBody // nil without body, and in HTTP/2
}

func (r *responseRecorder) WriteHeader(status int) {
	r.status = status
	r.start()
	r.ResponseWriter.WriteHeader(status)
}

func (r *responseRecorder) Write(b []byte) (int, error) {
	r.start()
	n, err := r.ResponseWriter.Write(b)
	r.bytes += int64(n)
	return n, err
}

// start closes the connection after a response that does not wait for the body. net/http would
// wait for up to 256 KiB of it before it sends the response.
func (r *responseRecorder) start() {
	if !r.started && r.body != nil && !r.body.complete {
		r.Header().Set("Connection", "close")
		_ = http.NewResponseController(r.ResponseWriter).EnableFullDuplex() // fails only in tests
	}
	r.started = true
}

// trackedBody knows whether the body has been read to its end.
type trackedBody struct {
	io.ReadCloser
	complete bool
}

func (b *trackedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.complete = b.complete || errors.Is(err, io.EOF)
	return n, err
}

func (r *responseRecorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// Metrics holds the Prometheus metrics of the gateway.
type Metrics struct {
	Registry         *prometheus.Registry
	requestDuration  *prometheus.HistogramVec
	requestsInFlight prometheus.Gauge
}

func NewMetrics() *Metrics {
	m := &Metrics{
		Registry: prometheus.NewRegistry(),
		requestDuration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "jobs_gateway_request_duration_seconds",
			Help:    "Time from the request headers to the end of the response.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
		}, []string{"method", "route", "status"}),
		requestsInFlight: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "jobs_gateway_requests_in_flight",
			Help: "Number of requests in flight.",
		}),
	}
	m.Registry.MustRegister(m.requestDuration, m.requestsInFlight, collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

func (m *Metrics) observe(method, route string, status int, duration time.Duration) {
	m.requestDuration.WithLabelValues(methodLabel(method), route, strconv.Itoa(status)).Observe(duration.Seconds())
}

// methodLabel maps unknown methods to one label: a client can send any word as the method.
func methodLabel(method string) string {
	switch method {
	case http.MethodGet, http.MethodPost, http.MethodDelete, http.MethodHead, http.MethodOptions, http.MethodPut, http.MethodPatch:
		return method
	}
	return "other"
}
