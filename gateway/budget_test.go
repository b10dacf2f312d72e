package main

import (
	"context"
	"runtime"
	"testing"
	"testing/synctest"
)

func TestBudget_LetsRequestsWaitInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBudget(10)
		order := make(chan int, 3)
		b.acquire(t.Context(), 1, 5)
		b.acquire(t.Context(), 2, 5)
		for i, amount := range []int64{4, 1, 1} {
			go func() {
				if b.acquire(t.Context(), uint64(3+i), amount) {
					order <- i
				}
			}()
			synctest.Wait()
		}
		b.release(1, 2)
		synctest.Wait()
		if len(order) != 0 {
			t.Error("a small amount passed a large one")
		}
		b.release(1, 3)
		synctest.Wait()
		if len(order) != 2 || <-order+<-order != 1 {
			t.Error("the first two did not get their amounts")
		}
		b.release(2, 5)
		synctest.Wait()
		if len(order) != 1 || b.free != 4 {
			t.Errorf("%d granted, %d free", len(order), b.free)
		}
	})
}

func TestBudget_GivesOneCallerAtMostHalf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBudget(10)
		if !b.acquire(t.Context(), 1, 5) || b.tryAcquire(1, 1) {
			t.Error("one caller has more than half")
		}
		go b.acquire(t.Context(), 1, 5)
		synctest.Wait()
		if !b.acquire(t.Context(), 2, 5) { // does not wait behind the share of the first caller
			t.Error("another caller got nothing")
		}
		b.release(1, 5)
		synctest.Wait()
		b.release(1, 5)
		b.release(2, 5)
		if b.free != 10 || len(b.used) != 0 || len(b.waiters) != 0 {
			t.Errorf("free %d, used %v, %d waiters", b.free, b.used, len(b.waiters))
		}
	})
}

func TestBudget_GivesUp_AfterWaitOrCancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBudget(2)
		b.acquire(t.Context(), 1, 1)
		if b.acquire(t.Context(), 1, 1) { // time advances by b.wait
			t.Error("acquired more than the share")
		}
		canceled, cancel := context.WithCancel(t.Context())
		cancel()
		if b.acquire(canceled, 1, 1) || len(b.waiters) != 0 {
			t.Error("a canceled request waits")
		}
	})
}

func TestMemoryBudgets_LetOneCallerDecodePagesOnHalfOfTheCores(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(4))
	budgets := newMemoryBudgets(128 << 20)
	if got := budgets.decodedResponseSize(make([]byte, 1000)); got > freeBytes {
		t.Errorf("a small response counts %d bytes", got)
	}
	page := budgets.decodedResponseSize(make([]byte, 10_000))
	for caller := range uint64(2) {
		for range 2 {
			if !budgets.messages.tryAcquire(caller, page) {
				t.Errorf("caller %d decodes fewer than two pages", caller)
			}
		}
		if budgets.messages.tryAcquire(caller, page) {
			t.Errorf("caller %d decodes more than two pages", caller)
		}
	}
}
