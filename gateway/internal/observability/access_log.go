// Need: operators. Attack: a flood of refused requests must not fill the log.

package observability

import (
	"log/slog"
	"net/http"
	"net/netip"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/jobs-grpc/jobs-grpc/gateway/internal/limits"
	"github.com/jobs-grpc/jobs-grpc/gateway/internal/routes"
)

const (
	// maxLoggedBytes limits each value of a request in its line, as the line has it: with escapes.
	maxLoggedBytes = 256

	// linesPerSecond is how many requests of one kind have lines in a second.
	linesPerSecond = 5

	// maxKinds limits the kinds that are counted in a second. Those of further addresses are counted by status only.
	maxKinds = 100
)

// AccessLog writes a line for each request. Requests that are refused, or that need no credentials, have at most
// linesPerSecond lines for each client address and status; then one line has the number of further ones (others).
// The gateway's end loses the numbers of the last second.
type AccessLog struct {
	logger         *slog.Logger
	trustedProxies []netip.Prefix

	mu     sync.Mutex
	counts map[kind]int // of this second
}

// kind is the client address and the status of requests.
type kind struct {
	address string
	status  int
}

// NewAccessLog returns an AccessLog. Requests from a trusted proxy have the address that it forwards.
func NewAccessLog(logger *slog.Logger, trustedProxies []netip.Prefix) *AccessLog {
	return &AccessLog{logger: logger, trustedProxies: trustedProxies, counts: map[kind]int{}}
}

// write writes the line of a request after its response.
func (l *AccessLog) write(r *http.Request, m *routes.Match, w *responseRecorder, duration time.Duration) {
	level := slog.LevelInfo
	if m.IsHealthCheck() {
		level = slog.LevelDebug
	}
	if !l.logger.Enabled(r.Context(), level) {
		return
	}
	if !wasServed(m, w) && !l.takeLine(kind{limits.ClientNetwork(r, l.trustedProxies), w.status}) {
		return
	}
	l.logger.LogAttrs(r.Context(), level, "request",
		slog.String("method", cut(r.Method)),
		slog.String("path", cut(r.URL.Path)),
		slog.String("route", m.Template),
		slog.Int("status", w.status),
		slog.Int64("bytes", w.bytes),
		slog.Float64("ms", float64(duration.Microseconds())/1000),
		slog.String("request_id", w.Header().Get("X-Request-Id")),
		slog.String("traceparent", w.Header().Get("Traceparent")),
		slog.String("tenant", cut(r.Header.Get("X-Tenant-Id"))),
		slog.String("remote", r.RemoteAddr),
		slog.String("user_agent", cut(r.UserAgent())),
	)
}

// wasServed reports whether the server has accepted the caller, and has done what the request asks for or has
// found that it can't be done.
func wasServed(m *routes.Match, w *responseRecorder) bool {
	if m.Operation == nil || m.Operation.Request == nil || !w.started {
		return false
	}
	switch w.status {
	case http.StatusNotFound, http.StatusConflict, http.StatusGone:
		return true
	}
	return w.status < 400
}

// takeLine counts a request of a kind, and reports whether it has a line.
func (l *AccessLog) takeLine(k kind) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.counts) == 0 {
		time.AfterFunc(time.Second, l.endSecond)
	}
	if l.counts[k] == 0 && len(l.counts) >= maxKinds {
		k.address = ""
	}
	l.counts[k]++
	return l.counts[k] <= linesPerSecond
}

// endSecond logs the numbers of requests without lines.
func (l *AccessLog) endSecond() {
	l.mu.Lock()
	counts := l.counts
	l.counts = map[kind]int{}
	l.mu.Unlock()
	for k, count := range counts {
		if count > linesPerSecond {
			l.logger.Info("requests", "status", k.status, "remote", k.address, "others", count-linesPerSecond)
		}
	}
}

// cut shortens text to what takes at most maxLoggedBytes in a line, and marks that with "…".
func cut(text string) string {
	written, end := 0, 0 // end: the mark fits after it
	for i, r := range text {
		if written <= maxLoggedBytes-len("…") {
			end = i
		}
		switch {
		case r < ' ' || r == utf8.RuneError || r == '\u2028' || r == '\u2029':
			written += len(`\u0000`)
		case r == '"' || r == '\\':
			written += len(`\\`)
		default:
			written += utf8.RuneLen(r)
		}
		if written > maxLoggedBytes {
			return text[:end] + "…"
		}
	}
	return text
}
