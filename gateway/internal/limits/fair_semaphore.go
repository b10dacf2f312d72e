// Package limits shares memory, calls and watches among callers, and finds out who the callers are.
//
// Need: limits with a share for each caller. Attacks: gateway-bodies-of-ten-devices, gateway-watches-of-ten-users.
package limits

import (
	"container/list"
	"context"
	"sync"
	"time"

	"github.com/jobs-grpc/jobs-grpc/gateway/internal/apierror"
)

// semaphoreWait is how long a request waits for a semaphore before it fails.
const semaphoreWait = 5 * time.Second

// Caller is whose share a request counts against: its tenant and, if the server verifies tokens, the user or
// device of the token, its subject. An unknown caller has no tenant, and its subject is its address.
type Caller struct{ Tenant, Subject string }

func (c Caller) Known() bool { return c.Tenant != "" }

// Shares are the maximum amounts of a Semaphore that one tenant, one subject, all unknown callers together, and
// the unknown callers of one address may hold.
type Shares struct{ tenant, subject, unknown, address int64 }

// SharesOf returns the shares of a semaphore of this size: half for a tenant, a quarter for all unknown callers. A
// subject has half of its tenant's share, and an address half of the share of unknown callers.
func SharesOf(size int64) Shares {
	return Shares{max(size/2, 1), max(size/4, 1), max(size/4, 1), max(size/8, 1)}
}

// Semaphore is a weighted semaphore that callers share, such as bytes of memory. Waiting tenants are
// served round-robin, and so are the subjects of one tenant. Requests of one subject are FIFO. A release
// examines only the requests that it grants, and one more.
type Semaphore struct {
	shares    Shares
	Wait      time.Duration
	uncounted int64 // amounts up to this size are not counted

	// The setting that errors name, and its value.
	setting string
	value   int64

	mu       sync.Mutex
	root     *share // its limit is the size of the semaphore
	examined int    // requests that grant has looked at, for tests
}

// share is a node of a tree: the root is the whole semaphore, its children are tenants, and their children
// are subjects.
type share struct {
	parent   *share
	key      string
	limit    int64
	used     int64
	children map[string]*share
	// The queue: a *waiter for each request of a subject, otherwise a *share for each child.
	ready list.List
	// The element of parent.ready. nil: no request waits, or the next one would exceed the limit.
	place *list.Element
}

type waiter struct {
	amount    int64
	isGranted bool
	granted   chan struct{}
}

func NewSemaphore(size int64, s Shares) *Semaphore {
	return &Semaphore{shares: s, Wait: semaphoreWait, root: &share{limit: size}}
}

// NewLimit returns a semaphore with the usual shares, and a setting with its value that errors name.
func NewLimit(size int64, setting string, value int64) *Semaphore {
	return NewSemaphore(size, SharesOf(size)).withSetting(setting, value)
}

// withSetting sets the setting and its value that errors name.
func (s *Semaphore) withSetting(setting string, value int64) *Semaphore {
	s.setting, s.value = setting, value
	return s
}

// overloaded returns the error of a caller that does not get its amount.
func (s *Semaphore) overloaded() *apierror.Error { return apierror.Overloaded(s.setting, s.value) }

// limits returns the limits of the tenant and of the subject of a caller.
func (s *Semaphore) limits(c Caller) (tenant, subject int64) {
	switch {
	case !c.Known():
		return s.shares.unknown, s.shares.address
	case c.Subject == "":
		return s.shares.tenant, s.shares.tenant
	}
	return s.shares.tenant, s.shares.subject
}

// Maximum returns what one caller can hold.
func (s *Semaphore) Maximum(c Caller) int64 {
	return min(s.limits(c))
}

// Acquire waits until the amount is free. It returns false after s.Wait or when ctx ends. The
// amount must not exceed s.Maximum(c).
func (s *Semaphore) Acquire(ctx context.Context, c Caller, amount int64) bool {
	s.mu.Lock()
	subject := s.find(c)
	w := &waiter{amount: amount, granted: make(chan struct{})}
	place := subject.ready.PushBack(w)
	subject.update()
	s.grant()
	isGranted := w.isGranted
	s.mu.Unlock()
	if isGranted {
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, s.Wait)
	defer cancel()
	select {
	case <-w.granted:
		return true
	case <-ctx.Done():
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if w.isGranted { // since the select
		return true
	}
	subject.ready.Remove(place)
	subject.update()
	subject.forget()
	s.grant() // a smaller amount behind it may fit
	return false
}

// TryAcquire takes the amount if it is free now, even if other requests wait. It is for callers that must not
// wait, such as those that already hold an amount.
func (s *Semaphore) TryAcquire(c Caller, amount int64) bool { return s.Exchange(c, 0, c, amount) }

func (s *Semaphore) Release(c Caller, amount int64) { s.Exchange(c, amount, c, 0) }

// Exchange releases what one caller holds and takes an amount for another caller, or for the same one, in one step.
// If the amount would not be free, it changes nothing and returns false. Like TryAcquire, it does not wait.
func (s *Semaphore) Exchange(from Caller, held int64, to Caller, amount int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	before, after := s.find(from), s.find(to)
	before.add(-held)
	ok := after.fits(amount)
	if ok {
		after.add(amount)
	} else {
		before.add(held)
	}
	before.forget()
	after.forget()
	s.grant() // the next request may fit, or now wait for its own limit and no longer block others
	return ok
}

// find returns the share of a caller. It requires s.mu, like the functions below.
func (s *Semaphore) find(c Caller) *share {
	tenantLimit, subjectLimit := s.limits(c)
	return s.root.child(c.Tenant, tenantLimit).child(c.Subject, subjectLimit)
}

// grant gives waiting requests their amounts, round-robin, while they fit.
func (s *Semaphore) grant() {
	for s.root.ready.Len() > 0 {
		tenant := s.root.ready.Front().Value.(*share)
		subject := tenant.ready.Front().Value.(*share)
		w := subject.ready.Front().Value.(*waiter)
		s.examined++
		if s.root.used+w.amount > s.root.limit {
			return // smaller amounts must not overtake it: it could wait forever
		}
		subject.ready.Remove(subject.ready.Front())
		tenant.ready.MoveToBack(subject.place)
		s.root.ready.MoveToBack(tenant.place)
		subject.add(w.amount)
		w.isGranted = true
		close(w.granted)
	}
}

func (s *share) child(key string, limit int64) *share {
	child := s.children[key]
	if child == nil {
		child = &share{parent: s, key: key, limit: limit}
		if s.children == nil {
			s.children = map[string]*share{}
		}
		s.children[key] = child
	}
	return child
}

// fits reports whether the amount exceeds no limit.
func (s *share) fits(amount int64) bool {
	return s == nil || s.used+amount <= s.limit && s.parent.fits(amount)
}

// add adds to what a subject, its tenant and the whole semaphore hold.
func (s *share) add(amount int64) {
	for each := s; each != nil; each = each.parent {
		each.used += amount
	}
	s.update()
}

// update adds a subject and its tenant to the queues of their parents, or removes them.
func (s *share) update() {
	for ; s.parent != nil; s = s.parent {
		fits := s.ready.Len() > 0 && s.used+s.next() <= s.limit
		if fits && s.place == nil {
			s.place = s.parent.ready.PushBack(s)
		} else if !fits && s.place != nil {
			s.parent.ready.Remove(s.place)
			s.place = nil
		}
	}
}

// next returns the amount of the next request.
func (s *share) next() int64 {
	first := s.ready.Front().Value
	if w, ok := first.(*waiter); ok {
		return w.amount
	}
	return first.(*share).next()
}

// forget removes shares that hold nothing and for which nothing waits, from a subject upward.
func (s *share) forget() {
	for ; s.parent != nil && s.used == 0 && s.ready.Len() == 0 && len(s.children) == 0; s = s.parent {
		delete(s.parent.children, s.key)
	}
}
