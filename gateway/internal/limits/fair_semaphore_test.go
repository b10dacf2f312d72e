package limits

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
)

func tenant(name string) Caller { return Caller{Tenant: name} }

func user(tenant, name string) Caller { return Caller{tenant, "user " + name} }

func address(text string) Caller { return Caller{Subject: text} }

// newTestSemaphore returns a semaphore without limits below its size.
func newTestSemaphore(size int64) *Semaphore {
	return NewSemaphore(size, Shares{size, size, size, size})
}

// checkUnused fails if something is held or waits.
func checkUnused(t *testing.T, s *Semaphore) {
	t.Helper()
	if s.root.used != 0 || len(s.root.children) != 0 || s.root.ready.Len() != 0 {
		t.Errorf("used %d, %d tenants, %d turns", s.root.used, len(s.root.children), s.root.ready.Len())
	}
}

// wait starts requests that wait, in this order, and returns the channel to which each sends its caller.
func wait(t *testing.T, s *Semaphore, amount int64, callers ...Caller) <-chan Caller {
	granted := make(chan Caller, len(callers))
	for _, c := range callers {
		go func() {
			if s.Acquire(t.Context(), c, amount) {
				granted <- c
			}
		}()
		synctest.Wait()
	}
	return granted
}

func TestFairSemaphore_IsRoundRobin_ByTenantAndBySubject(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTestSemaphore(1)
		s.Acquire(t.Context(), tenant("first"), 1)
		flood, colleague, other := user("a", "flood"), user("a", "colleague"), user("b", "x")
		granted := wait(t, s, 1, flood, flood, flood, colleague, other)
		var order []Caller
		last := tenant("first")
		for range 5 {
			s.Release(last, 1)
			last = <-granted
			order = append(order, last)
		}
		if want := []Caller{flood, other, colleague, flood, flood}; !slices.Equal(order, want) {
			t.Errorf("%v", order)
		}
		s.Release(last, 1)
		checkUnused(t, s)
	})
}

func TestFairSemaphore_IsFIFO_ForOneCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTestSemaphore(10)
		order := make(chan int64, 3)
		s.Acquire(t.Context(), tenant("a"), 10)
		for _, amount := range []int64{4, 1, 2} {
			go func() {
				s.Acquire(t.Context(), tenant("a"), amount)
				order <- amount
			}()
			synctest.Wait()
		}
		s.Release(tenant("a"), 3)
		synctest.Wait()
		if len(order) != 0 {
			t.Error("a small amount passed a large one")
		}
		s.Release(tenant("a"), 1)
		synctest.Wait()
		s.Release(tenant("a"), 6)
		synctest.Wait()
		if first := <-order; first != 4 || len(order) != 2 {
			t.Errorf("first %d, then %d granted", first, len(order))
		}
	})
}

func TestFairSemaphore_LimitsTenantsSubjectsAndAddresses(t *testing.T) {
	s := NewSemaphore(80, SharesOf(80))
	take := func(c Caller) (count int) {
		for s.TryAcquire(c, 1) {
			count++
		}
		return count
	}
	for _, c := range []struct {
		caller Caller
		want   int
	}{
		{user("a", "x"), 20}, // half of its tenant's share
		{user("a", "y"), 20},
		{user("a", "z"), 0}, // the tenant has half of all
		{address("192.0.2.1"), 10},
		{address("192.0.2.2"), 10}, // the unknown callers have a quarter of all
		{address("192.0.2.3"), 0},
		{tenant("b"), 20}, // what is free
	} {
		if got := take(c.caller); got != c.want {
			t.Errorf("%v: %d, want %d", c.caller, got, c.want)
		}
	}
	if got := NewSemaphore(80, SharesOf(80)).Maximum(tenant("b")); got != 40 {
		t.Errorf("without a subject: %d", got)
	}
}

func TestFairSemaphore_PassesRequestsThatWaitForALimitOfTheirOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewSemaphore(8, SharesOf(8))
		x, y, z := user("a", "x"), user("a", "y"), user("a", "z")
		s.Acquire(t.Context(), x, 2)
		granted := wait(t, s, 1, x, y, y, z, tenant("b"), address("192.0.2.1"))
		if len(granted) != 4 { // x has its limit; y, y, b and the address do not wait; then a has its limit
			t.Fatalf("%d granted", len(granted))
		}
		for range 4 {
			<-granted
		}
		s.Release(y, 1)
		synctest.Wait()
		if got := <-granted; got != z {
			t.Errorf("%v", got)
		}
		s.Release(x, 1)
		synctest.Wait()
		if got := <-granted; got != x {
			t.Errorf("%v", got)
		}
	})
}

func TestFairSemaphore_ExaminesOnlyRequestsThatItGrants_AndOneMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const waiting = 10_000
		s := NewSemaphore(100, SharesOf(100))
		holders := []Caller{user("full", "x"), user("full", "y"), tenant("half")}
		for i, amount := range []int64{25, 25, 50} {
			s.Acquire(t.Context(), holders[i], amount)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var granted atomic.Int64
		for n := range waiting {
			for _, c := range []Caller{
				holders[0],                        // waits for its subject's limit
				user("full", fmt.Sprint(n)),       // waits for its tenant's
				tenant(fmt.Sprint(n)),             // waits for what is free
				address(fmt.Sprintf("net-%d", n)), // so do unknown callers
			} {
				go func() {
					if s.Acquire(ctx, c, 1) {
						granted.Add(1)
					}
				}()
			}
		}
		synctest.Wait()
		for _, holder := range holders {
			for range 10 {
				examined, before := s.examined, granted.Load()
				s.Release(holder, 1)
				synctest.Wait()
				if count, want := s.examined-examined, int(granted.Load()-before)+1; count > want {
					t.Errorf("%v releases: %d examined, want at most %d", holder, count, want)
				}
			}
		}
		examined := s.examined
		cancel()
		synctest.Wait()
		if count := s.examined - examined; count > 4*waiting {
			t.Errorf("%d examined for %d cancels", count, 4*waiting)
		}
	})
}

func TestFairSemaphore_GivesUp_AfterWaitOrCancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewSemaphore(2, SharesOf(2))
		s.Acquire(t.Context(), tenant("a"), 1)
		if s.Acquire(t.Context(), tenant("a"), 1) { // time advances by s.wait
			t.Error("acquired more than the share")
		}
		canceled, cancel := context.WithCancel(t.Context())
		cancel()
		if s.Acquire(canceled, tenant("a"), 1) {
			t.Error("a canceled request was granted")
		}
		s.Release(tenant("a"), 1)
		checkUnused(t, s)
	})
}

func TestFairSemaphore_GrantsASmallAmount_WhenALargeOneBeforeItIsCanceled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTestSemaphore(10)
		s.Acquire(t.Context(), tenant("a"), 6)
		canceled, cancel := context.WithCancel(t.Context())
		go s.Acquire(canceled, tenant("b"), 5)
		synctest.Wait()
		granted := wait(t, s, 4, tenant("c"))
		cancel()
		synctest.Wait()
		if len(granted) != 1 {
			t.Error("nothing granted")
		}
	})
}

// The model has no order: limits are never exceeded, and no request that fits waits.
func TestFairSemaphore_MatchesModel_AfterRandomOperations(t *testing.T) {
	for seed := range uint64(200) {
		synctest.Test(t, func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 0))
			s := NewSemaphore(40, SharesOf(40))
			callers := []Caller{
				user("a", "x"), user("a", "y"), user("b", "x"), tenant("c"), address("192.0.2.1"), address("192.0.2.2"),
			}
			held := map[Caller][]int64{}
			type request struct {
				caller Caller
				amount int64
			}
			waiting := map[*request]bool{}
			results := make(chan *request, 1000)
			for range 200 {
				c := callers[random.IntN(len(callers))]
				amount := 1 + random.Int64N(s.Maximum(c))
				switch random.IntN(5) {
				case 0:
					if s.TryAcquire(c, amount) {
						held[c] = append(held[c], amount)
					}
				case 1, 2:
					r := &request{c, amount}
					waiting[r] = true
					go func() {
						s.Acquire(context.Background(), c, amount)
						results <- r
					}()
				case 3:
					if n := len(held[c]); n > 0 {
						s.Release(c, held[c][n-1])
						held[c] = held[c][:n-1]
					}
				case 4:
					to := callers[random.IntN(len(callers))]
					amount = min(amount, s.Maximum(to))
					if n := len(held[c]); n > 0 && s.Exchange(c, held[c][n-1], to, amount) {
						held[c] = held[c][:n-1]
						held[to] = append(held[to], amount)
					}
				}
				synctest.Wait()
				for len(results) > 0 {
					r := <-results
					delete(waiting, r)
					held[r.caller] = append(held[r.caller], r.amount)
				}
				checkModel(t, s, held)
			}
			for len(waiting) > 0 { // each gets its amount in the end
				for c, amounts := range held {
					for _, amount := range amounts {
						s.Release(c, amount)
					}
				}
				clear(held)
				synctest.Wait()
				if len(results) == 0 {
					t.Fatalf("seed %d: %d wait although nothing is held", seed, len(waiting))
				}
				for len(results) > 0 {
					r := <-results
					delete(waiting, r)
					held[r.caller] = append(held[r.caller], r.amount)
				}
			}
		})
	}
}

func checkModel(t *testing.T, s *Semaphore, held map[Caller][]int64) {
	t.Helper()
	var total int64
	tenants := map[string]int64{}
	for c, amounts := range held {
		var used int64
		for _, amount := range amounts {
			used += amount
		}
		total += used
		tenants[c.Tenant] += used
		tenantLimit, subjectLimit := s.limits(c)
		if used > subjectLimit || tenants[c.Tenant] > tenantLimit {
			t.Fatalf("%v holds %d, its tenant %d", c, used, tenants[c.Tenant])
		}
	}
	if total > s.root.limit || total != s.root.used {
		t.Fatalf("%d held, %d used", total, s.root.used)
	}
	// The next request is the only one that may wait for what is free.
	if s.root.ready.Len() > 0 && s.root.used+s.root.next() <= s.root.limit {
		t.Fatal("the next request waits although it fits")
	}
}

func TestMemoryLimits_LetOneTenantDecodePagesOnHalfOfTheCores(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(4))
	limits := NewMemoryLimits(128 << 20)
	if got := limits.DecodedResponseSize(make([]byte, 1000)); got > FreeBytes {
		t.Errorf("a small response counts %d bytes", got)
	}
	page := limits.DecodedResponseSize(make([]byte, 10_000))
	for _, c := range []Caller{user("a", "x"), tenant("b")} {
		for range 2 {
			if !limits.Messages.TryAcquire(c, page) {
				t.Errorf("%v decodes fewer than two pages", c)
			}
		}
		if limits.Messages.TryAcquire(c, page) {
			t.Errorf("%v decodes more than two pages", c)
		}
	}
}
