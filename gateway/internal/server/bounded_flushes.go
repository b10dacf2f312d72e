package server

import (
	"net/http"
	"time"

	"github.com/jobs-grpc/jobs-grpc/gateway/internal/config"
	"github.com/jobs-grpc/jobs-grpc/gateway/internal/limits"
)

// withBoundedFlushes sends the end of an HTTP/2 response before the handler returns, and limits how many responses wait
// for their clients. net/http would send it afterwards, when no limit counts the request, and a client that grants no window
// could have 100 such responses on each connection.
func withBoundedFlushes(config *config.Config, next http.Handler) http.Handler {
	flushing := limits.NewSemaphore(config.MaxRequestsInFlight, limits.SharesOf(config.MaxRequestsInFlight))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		next.ServeHTTP(w, r)
		if r.ProtoMajor != 2 {
			return // the end fits into the buffers of the socket
		}
		control := http.NewResponseController(w)
		address := limits.Caller{Subject: limits.ClientNetwork(r, config.TrustedProxies)}
		if !flushing.TryAcquire(address, 1) {
			_ = control.SetWriteDeadline(time.Unix(0, 0)) // resets the stream
			return
		}
		defer flushing.Release(address, 1)
		_ = control.Flush()
	})
}
