package main

import (
	"context"
	"slices"
	"sync"
	"time"
)

// budgetWait is the maximum wait for a budget. After it, a request fails instead.
const budgetWait = 5 * time.Second

// budget is an amount that callers share, such as bytes of memory. One caller has at most half
// of it, so that it can't lock out all others. Waiting requests get their turn in order.
type budget struct {
	share int64 // maximum of one caller
	wait  time.Duration

	mu      sync.Mutex
	free    int64
	used    map[uint64]int64 // by caller
	waiters []*waiter
}

type waiter struct {
	caller  uint64
	amount  int64
	granted chan struct{}
}

func newBudget(size int64) *budget {
	return &budget{share: max(size/2, 1), wait: budgetWait, free: size, used: map[uint64]int64{}}
}

// acquire waits until the amount is free. It returns false after b.wait or when ctx ends. The
// amount must not exceed b.share.
func (b *budget) acquire(ctx context.Context, caller uint64, amount int64) bool {
	b.mu.Lock()
	if len(b.waiters) == 0 && b.take(caller, amount) {
		b.mu.Unlock()
		return true
	}
	w := &waiter{caller, amount, make(chan struct{})}
	b.waiters = append(b.waiters, w)
	b.grant() // the requests before it may wait for the share of their caller
	b.mu.Unlock()

	timeout := time.NewTimer(b.wait)
	defer timeout.Stop()
	select {
	case <-w.granted:
		return true
	case <-timeout.C:
	case <-ctx.Done():
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	i := slices.Index(b.waiters, w)
	if i < 0 {
		return true // granted at the last moment
	}
	b.waiters = slices.Delete(b.waiters, i, i+1)
	b.grant() // a smaller amount behind it may fit
	return false
}

// tryAcquire takes the amount if it is free now. It passes waiting requests: its caller holds
// an amount already and must not wait for another one.
func (b *budget) tryAcquire(caller uint64, amount int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.take(caller, amount)
}

func (b *budget) release(caller uint64, amount int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.free += amount
	if b.used[caller] -= amount; b.used[caller] == 0 {
		delete(b.used, caller)
	}
	b.grant()
}

// take requires b.mu.
func (b *budget) take(caller uint64, amount int64) bool {
	if amount > b.free || b.used[caller]+amount > b.share {
		return false
	}
	b.free -= amount
	b.used[caller] += amount
	return true
}

// grant wakes the first waiting requests as far as the budget allows. It skips those that have
// to wait for the share of their caller. It requires b.mu.
func (b *budget) grant() {
	full := false
	b.waiters = slices.DeleteFunc(b.waiters, func(w *waiter) bool {
		if full || b.used[w.caller]+w.amount > b.share {
			return false
		}
		if full = !b.take(w.caller, w.amount); full {
			return false
		}
		close(w.granted)
		return true
	})
}
