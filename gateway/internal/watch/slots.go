package watch

import (
	"context"

	"github.com/jobs-grpc/jobs-grpc/gateway/internal/apierror"
	"github.com/jobs-grpc/jobs-grpc/gateway/internal/limits"
)

// slots limit the streams of one kind.
type slots struct {
	*limits.Semaphore
	setting string
	maximum int64
}

func newSlots(setting string, maximum int64) slots {
	return slots{limits.NewSemaphore(maximum, limits.SharesOf(maximum)), setting, maximum}
}

func (s *slots) overloaded() *apierror.Error { return apierror.Overloaded(s.setting, s.maximum) }

// slot is the slot of one stream. It counts for the caller, or for the address of a caller that is not known yet.
type slot struct {
	slots    *slots
	identity *limits.Identity
	holder   limits.Caller
}

// acquire takes a slot for the caller, or for its address if it is unknown.
func (s *slot) acquire(ctx context.Context) *apierror.Error {
	taken, e := s.identity.Admit(ctx, s.slots.Semaphore, 1)
	if e != nil {
		return e
	}
	if !taken && !s.slots.TryAcquire(s.identity.Caller, 1) {
		return s.slots.overloaded()
	}
	s.holder = s.identity.Caller
	return nil
}

// learn asks who an unknown caller is, and moves the slot to its share.
func (s *slot) learn(ctx context.Context) error {
	if s.holder.Known() {
		return nil
	}
	if e := s.identity.Learn(ctx); e != nil {
		return e
	}
	if !s.slots.Exchange(s.holder, 1, s.identity.Caller, 1) {
		return s.slots.overloaded()
	}
	s.holder = s.identity.Caller
	return nil
}

func (s *slot) release() { s.slots.Release(s.holder, 1) }
