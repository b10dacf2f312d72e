package server

import (
	"net/http"
	"sync/atomic"

	"github.com/jobs-grpc/jobs-grpc/gateway/internal/apierror"
	"github.com/jobs-grpc/jobs-grpc/gateway/internal/routes"
)

// healthReserve is how many health checks may be in flight in addition to all other requests, so
// that a load balancer does not take an overloaded gateway for a broken one.
const healthReserve = 100

// withRequestLimit rejects requests while the maximum number is in flight.
func withRequestLimit(maximum int64, next http.Handler) http.Handler {
	var inFlight atomic.Int64
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		limit := maximum
		if routes.MatchFromContext(r.Context()).Template == "/healthz" {
			limit += healthReserve
		}
		defer inFlight.Add(-1)
		if inFlight.Add(1) > limit {
			apierror.Overloaded("max-requests-in-flight", maximum).Write(w)
			return
		}
		next.ServeHTTP(w, r)
	})
}
