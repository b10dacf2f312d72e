package main

import (
	"log/slog"
	"net/http"
	"runtime/debug"
	"time"

	"google.golang.org/grpc/codes"
)

// noRoute is the route label and log value of all paths that match no route.
const noRoute = "none"

// instrument is the outermost middleware. It sets the request ID, finds the route, records
// metrics, writes the access log, and turns a panic into a 500 response.
func instrument(routes routeTable, m *metrics, logger *slog.Logger, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		started := time.Now()
		m.requestsInFlight.Inc()
		defer m.requestsInFlight.Dec()
		requestID := setRequestID(w, r)
		setTraceparent(w, r)
		route, rawPath := routes.match(r.Method, r.URL)
		template := noRoute
		if route != nil {
			template = route.template
			r.URL.RawPath = rawPath
		}
		recorder := &responseRecorder{ResponseWriter: w, status: http.StatusOK}
		func() {
			defer recoverPanic(recorder, requestID, logger)
			next.ServeHTTP(recorder, r.WithContext(withRoute(r.Context(), route)))
		}()

		duration := time.Since(started)
		m.observe(r.Method, template, recorder.status, duration)
		logRequest(logger, r, template, recorder, duration)
	})
}

// recoverPanic logs a panic of the handler and responds with 500 if no response has started.
func recoverPanic(w *responseRecorder, requestID string, logger *slog.Logger) {
	if cause := recover(); cause != nil {
		logger.Error("panic", "cause", cause, "request_id", requestID, "stack", string(debug.Stack()))
		if !w.started {
			newAPIError(codes.Internal, "INTERNAL", "Internal error").write(w)
		}
	}
}

// withNoSniff tells browsers not to guess the content type of a response.
func withNoSniff(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Content-Type-Options", "nosniff")
		next.ServeHTTP(w, r)
	})
}

// responseRecorder records the status and the size of a response for metrics and the log.
type responseRecorder struct {
	http.ResponseWriter
	status  int
	bytes   int64
	started bool
}

func (r *responseRecorder) WriteHeader(status int) {
	r.status, r.started = status, true
	r.ResponseWriter.WriteHeader(status)
}

func (r *responseRecorder) Write(b []byte) (int, error) {
	r.started = true
	n, err := r.ResponseWriter.Write(b)
	r.bytes += int64(n)
	return n, err
}

func (r *responseRecorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }
