package server

import (
	"context"

	"github.com/jobs-grpc/jobs-grpc/gateway/internal/apierror"
	"github.com/jobs-grpc/jobs-grpc/gateway/internal/limits"
	"github.com/jobs-grpc/jobs-grpc/gateway/internal/routes"
)

// healthSlots are the slots of health checks, so that a load balancer does not take an overloaded gateway for a broken
// one. Callers without credentials have 100 of them, and one address 50.
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

// acquire takes a slot, which release returns. A caller who is not known yet takes it from the share of its address.
// If that is used up, a call asks the server who the caller is, and takes it from the share of the tenant.
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
