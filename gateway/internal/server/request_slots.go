package server

import (
	"context"

	"github.com/jobs-grpc/jobs-grpc/gateway/internal/apierror"
	"github.com/jobs-grpc/jobs-grpc/gateway/internal/limits"
	"github.com/jobs-grpc/jobs-grpc/gateway/internal/routes"
)

// healthSlots is the number of slots for health checks. They have their own, so that a load balancer does not take an
// overloaded gateway for a broken one. Callers without credentials have 100 of them, and one address 50.
const healthSlots = 400

// requestSlots limit the requests in flight. Streams have slots of their own: see package watch.
type requestSlots struct {
	maximum  int64
	requests *limits.Semaphore
	health   *limits.Semaphore
}

func newRequestSlots(maximum int64) *requestSlots {
	return &requestSlots{
		maximum, limits.NewSemaphore(maximum, limits.SharesOf(maximum)),
		limits.NewSemaphore(healthSlots, limits.SharesOf(healthSlots)),
	}
}

// acquire takes a slot until release is called. The slot of a caller who is not known yet counts for its address. If the
// share of the address is used up, acquire asks the server who the caller is, and the slot counts for the tenant.
func (s *requestSlots) acquire(ctx context.Context, m *routes.Match, id *limits.Identity) (release func(), e *apierror.Error) {
	semaphore, taken := s.requests, false
	if m.IsHealthCheck() {
		semaphore = s.health
	}
	if m.Operation != nil && m.Operation.Request != nil {
		if taken, e = id.Admit(ctx, semaphore, 1); e != nil {
			return nil, e
		}
	}
	if !taken && !semaphore.TryAcquire(id.Caller, 1) {
		return nil, apierror.Overloaded("max-requests-in-flight", s.maximum)
	}
	holder := id.Caller // it may become known
	return func() { semaphore.Release(holder, 1) }, nil
}
