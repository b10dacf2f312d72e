package limits

import (
	"context"

	"github.com/jobs-grpc/jobs-grpc/gateway/internal/apierror"
)

// Reservation is the part of a semaphore that one request holds. It counts for the caller, or for the address of a caller
// that is not known yet.
type Reservation struct {
	Semaphore *Semaphore
	identity  *Identity
	holder    Caller // the caller whose share Held counts against
	Held      int64
}

// Reservation returns an empty reservation of the caller.
func (id *Identity) Reservation(s *Semaphore) *Reservation {
	return &Reservation{Semaphore: s, identity: id}
}

// Reserve waits until the amount is free. The reservation must be empty. If the share of the address of an unknown caller
// does not have that much, it asks the server who the caller is: callers with one address must not wait for each other.
func (r *Reservation) Reserve(ctx context.Context, amount int64) *apierror.Error {
	if amount <= r.Semaphore.free || !r.identity.Known() && r.Resize(amount) == nil {
		return nil
	}
	if e := r.identity.Learn(ctx); e != nil {
		return e
	}
	holder := r.identity.Caller
	amount = min(amount, r.Semaphore.Maximum(holder))
	if !r.Semaphore.Acquire(ctx, holder, amount) {
		return r.Semaphore.overloaded()
	}
	r.holder, r.Held = holder, amount
	return nil
}

// TryReserve is Reserve for requests that must not wait for others.
func (r *Reservation) TryReserve(ctx context.Context, amount int64) *apierror.Error {
	e := r.Resize(amount)
	if e == nil || r.identity.Known() {
		return e
	}
	if e := r.identity.Learn(ctx); e != nil {
		return e
	}
	return r.Resize(amount)
}

// Resize changes the amount without waiting. If the caller has become known, the amount moves to its share.
func (r *Reservation) Resize(amount int64) *apierror.Error {
	if amount <= r.Semaphore.free {
		amount = 0
	}
	holder := r.identity.Caller
	amount = min(amount, r.Semaphore.Maximum(holder))
	if r.Held+amount > 0 && !r.Semaphore.Exchange(r.holder, r.Held, holder, amount) {
		return r.Semaphore.overloaded()
	}
	r.holder, r.Held = holder, amount
	return nil
}

// Learn asks the server who the caller is if the amount counts for its address, and moves the amount to its share.
func (r *Reservation) Learn(ctx context.Context) *apierror.Error {
	if r.HolderKnown() {
		return nil
	}
	if e := r.identity.Learn(ctx); e != nil {
		return e
	}
	return r.Resize(r.Held)
}

// HolderKnown reports whether the amount counts for a known caller.
func (r *Reservation) HolderKnown() bool { return r.holder.Known() }

func (r *Reservation) Release() {
	if r.Held > 0 {
		r.Semaphore.Release(r.holder, r.Held)
	}
	r.Held = 0
}
