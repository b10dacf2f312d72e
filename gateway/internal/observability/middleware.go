// Package observability has the access log, the metrics and the traces of requests.
package observability

import (
	"errors"
	"io"
	"log/slog"
	"net/http"
	"runtime/debug"
	"time"

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
