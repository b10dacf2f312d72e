// Need: the limit max-requests-in-flight. Attack: gateway-unread-responses, over HTTP/2.

package server

import (
	"net/http"
	"time"

	"github.com/jobs-grpc/jobs-grpc/gateway/internal/config"
	"github.com/jobs-grpc/jobs-grpc/gateway/internal/limits"
)

// flushPatience is how long a response waits for its client if too many others wait.
const flushPatience = 250 * time.Millisecond

// withBoundedFlushes sends the end of an HTTP/2 response before the handler returns, and limits how many responses wait
// for their clients. net/http would send it afterwards, when no limit counts the request, and a client that grants no window
// could have 100 such responses on each connection.
func withBoundedFlushes(config *config.Config, next http.Handler) http.Handler {
	flushing := limits.NewLimit(config.MaxRequestsInFlight, "", 0)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		next.ServeHTTP(w, r)
		if r.ProtoMajor != 2 {
			return // the end fits into the buffers of the socket
		}
		control := http.NewResponseController(w)
		address := limits.Caller{Subject: limits.ClientNetwork(r, config.TrustedProxies)}
		if flushing.TryAcquire(address, 1) {
			defer flushing.Release(address, 1)
		} else {
			// Not at once: clients that read must get their responses, also if others hold all places.
			_ = control.SetWriteDeadline(time.Now().Add(flushPatience)) // then resets the stream
		}
		_ = control.Flush()
	})
}
