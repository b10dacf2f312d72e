package observability

import (
	"log/slog"
	"net/http"
	"time"
)

// logRequest writes one log line for a request after its response.
func logRequest(logger *slog.Logger, r *http.Request, route string, w *responseRecorder, duration time.Duration) {
	level := slog.LevelInfo
	if route == "/healthz" {
		level = slog.LevelDebug
	}
	logger.LogAttrs(r.Context(), level, "request",
		slog.String("method", r.Method),
		slog.String("path", r.URL.Path),
		slog.String("route", route),
		slog.Int("status", w.status),
		slog.Int64("bytes", w.bytes),
		slog.Float64("ms", float64(duration.Microseconds())/1000),
		slog.String("request_id", w.Header().Get("X-Request-Id")),
		slog.String("traceparent", w.Header().Get("Traceparent")),
		slog.String("tenant", r.Header.Get("X-Tenant-Id")),
		slog.String("remote", r.RemoteAddr),
		slog.String("user_agent", r.UserAgent()),
	)
}
