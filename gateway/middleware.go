package main

import (
	"context"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"google.golang.org/grpc/codes"
)

type metrics struct {
	registry *prometheus.Registry
	seconds  *prometheus.HistogramVec
	inFlight prometheus.Gauge
}

func newMetrics() *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "jobs_gateway_request_seconds",
			Help:    "Time from a request to the end of its answer.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
		}, []string{"method", "route", "status"}),
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "jobs_gateway_requests_in_flight",
			Help: "Requests that are being served.",
		}),
	}
	m.registry.MustRegister(m.seconds, m.inFlight, collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

type routeKey struct{}

// routeOf is the route that observe found, or nil.
func routeOf(ctx context.Context) *route {
	matched, _ := ctx.Value(routeKey{}).(*route)
	return matched
}

// observe names each request, logs it once, counts it, and answers a panic.
func observe(all routes, m *metrics, logger *slog.Logger, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		started := time.Now()
		m.inFlight.Inc()
		defer m.inFlight.Dec()
		requestID := nameRequest(w, r)
		matched, encoded := all.match(r.Method, r.URL)
		template := "none" // one label for all paths that don't exist
		if matched != nil {
			template = matched.template
			r.URL.RawPath = encoded
		}
		method, path := r.Method, r.URL.Path
		answer := &answer{ResponseWriter: w, status: http.StatusOK}
		func() {
			defer recoverFrom(answer, requestID, logger)
			next.ServeHTTP(answer, r.WithContext(context.WithValue(r.Context(), routeKey{}, matched)))
		}()

		took := time.Since(started)
		m.seconds.WithLabelValues(methodLabel(method), template, strconv.Itoa(answer.status)).Observe(took.Seconds())
		logger.LogAttrs(r.Context(), levelOf(template), "request",
			slog.String("method", method),
			slog.String("path", path),
			slog.String("route", template),
			slog.Int("status", answer.status),
			slog.Int64("bytes", answer.bytes),
			slog.Float64("ms", float64(took.Microseconds())/1000),
			slog.String("request_id", requestID),
			slog.String("traceparent", w.Header().Get("Traceparent")),
			slog.String("tenant", r.Header.Get("X-Tenant-Id")),
			slog.String("remote", r.RemoteAddr),
			slog.String("user_agent", r.UserAgent()),
		)
	})
}

func recoverFrom(w *answer, requestID string, logger *slog.Logger) {
	if cause := recover(); cause != nil {
		logger.Error("panic", "cause", cause, "request_id", requestID, "stack", string(debug.Stack()))
		if !w.started {
			newProblem(codes.Internal, "INTERNAL", "Internal error").write(w)
		}
	}
}

// methodLabel bounds the label: a method can be any word.
func methodLabel(method string) string {
	switch method {
	case http.MethodGet, http.MethodPost, http.MethodDelete, http.MethodHead, http.MethodOptions, http.MethodPut, http.MethodPatch:
		return method
	}
	return "other"
}

// levelOf keeps probes out of the log.
func levelOf(template string) slog.Level {
	if template == "/healthz" {
		return slog.LevelDebug
	}
	return slog.LevelInfo
}

// answer remembers what was written.
type answer struct {
	http.ResponseWriter
	status  int
	bytes   int64
	started bool
}

func (a *answer) WriteHeader(status int) {
	a.status, a.started = status, true
	a.ResponseWriter.WriteHeader(status)
}

func (a *answer) Write(b []byte) (int, error) {
	a.started = true
	n, err := a.ResponseWriter.Write(b)
	a.bytes += int64(n)
	return n, err
}

func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }
