package main

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	jobsv1 "github.com/jobs-grpc/jobs-grpc/gateway/gen/fleet/jobs/v1"
)

func newTestCallers(t *testing.T, s jobsv1.JobServiceServer) *callers {
	t.Helper()
	connection, err := grpc.NewClient(serveService(t, s), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { connection.Close() })
	return newCallers(4, func() *grpc.ClientConn { return connection }, nil)
}

func requestWith(header http.Header) *http.Request {
	request := httptest.NewRequest("GET", "/customer/jobs/a", nil)
	request.Header = header
	return request
}

func TestCallers_AreOneCaller_UnderTenSpellingsOfAToken(t *testing.T) {
	for _, header := range spellings("acme/olivia", "acme") {
		c := newTestCallers(t, newTokenStub())
		id := c.identify(requestWith(header))
		if id.caller != address("192.0.2.1") {
			t.Errorf("%v: before the lookup: %+v", header, id.caller)
		}
		if e := id.learn(t.Context()); e != nil || id.caller != user("acme", "olivia") {
			t.Errorf("%v: %+v %v", header, id.caller, e)
		}
		if id := c.identify(requestWith(header)); id.caller != user("acme", "olivia") {
			t.Errorf("%v: not remembered: %+v", header, id.caller)
		}
	}
}

func TestCallers_AreRememberedOnce_UnderTenSpellingsOfAToken(t *testing.T) {
	s := newTokenStub()
	c := newTestCallers(t, s)
	for _, header := range spellings("acme/olivia", "acme") {
		if e := c.identify(requestWith(header)).learn(t.Context()); e != nil {
			t.Fatal(e)
		}
	}
	// With the tenant and without.
	if len(c.known) != 2 || s.lookups.Load() != 2 {
		t.Errorf("%d remembered after %d lookups", len(c.known), s.lookups.Load())
	}
	for _, other := range []string{"Bearer acme/Olivia", "Basic acme/olivia", "Beareracme/olivia", "acme/olivia", "Bearer"} {
		if id := c.identify(requestWith(http.Header{"Authorization": {other}})); id.known() {
			t.Errorf("%s is known", other)
		}
	}
}

func TestCallers_CountByTenantAlone_WithoutTokens(t *testing.T) {
	c := newTestCallers(t, &stub{})
	id := c.identify(requestWith(http.Header{"X-Tenant-Id": {"acme"}, "X-User-Id": {"anything"}}))
	if e := id.learn(t.Context()); e != nil || id.caller != tenant("acme") {
		t.Errorf("%+v %v", id.caller, e)
	}
}

func TestCallers_ShareOneLookup_WhenCredentialsAreTheSame(t *testing.T) {
	s := newTokenStub()
	s.blocked = make(chan struct{})
	c := newTestCallers(t, s)
	ids := make([]*identity, 10)
	var learning sync.WaitGroup
	for i := range ids {
		ids[i] = c.identify(requestWith(bearer("acme/olivia")))
	}
	for _, id := range ids[1:] {
		learning.Go(func() {
			if e := id.learn(t.Context()); e != nil || id.caller != user("acme", "olivia") {
				t.Errorf("%+v %v", id.caller, e)
			}
		})
	}
	for s.lookups.Load() == 0 {
		runtime.Gosched()
	}
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	if e := ids[0].learn(canceled); e == nil || ids[0].known() {
		t.Error("a canceled request waited for the lookup")
	}
	close(s.blocked)
	learning.Wait()
	if got := s.lookups.Load(); got != 1 {
		t.Errorf("%d lookups", got)
	}
}

func TestCallers_AreNotLookedUp_WhenNoRequestWaits(t *testing.T) {
	s := newTokenStub()
	s.blocked = make(chan struct{})
	c := newTestCallers(t, s)
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	const disconnected = 200 // more than there are lookups at a time
	for n := range disconnected {
		c.identify(requestWith(bearer(fmt.Sprintf("acme/%d", n)))).learn(canceled)
	}
	c.mu.Lock()
	if len(c.pending) != 0 {
		t.Errorf("%d lookups of clients that have disconnected", len(c.pending))
	}
	c.mu.Unlock()
	close(s.blocked)
	id := c.identify(requestWith(bearer("acme/0")))
	if e := id.learn(t.Context()); e != nil || id.caller != user("acme", "0") {
		t.Errorf("%+v %v", id.caller, e)
	}
}

func TestCallers_GetTheirOwnRequestID_WhenTheLookupTheyShareFails(t *testing.T) {
	c := newTestCallers(t, newTokenStub())
	c.lookups.wait = 0
	for c.lookups.tryAcquire(address("192.0.2.1"), 1) {
	}
	l := c.lookUp(c.identify(requestWith(bearer("acme/olivia"))))
	<-l.done
	var writing sync.WaitGroup
	for _, requestID := range []string{"first", "second"} {
		writing.Go(func() {
			e, _ := convertError(l.err)
			recorder := httptest.NewRecorder()
			recorder.Header().Set("X-Request-Id", requestID)
			e.write(recorder)
			if body := recorder.Body.String(); e.RequestID != "" || !strings.Contains(body, `"request_id":"`+requestID+`"`) {
				t.Errorf("%q, shared: %q", body, e.RequestID)
			}
		})
	}
	writing.Wait()
}

func TestCallers_AreRememberedUntilTheTokenExpires_AtMostForAMinute(t *testing.T) {
	s := newTokenStub()
	for _, lifetime := range []time.Duration{-time.Second, 30 * time.Second, time.Hour} {
		s.expiry = time.Now().Add(lifetime)
		c := newTestCallers(t, s)
		want := time.Now().Add(min(lifetime, time.Minute))
		if e := c.identify(requestWith(bearer("acme/olivia"))).learn(t.Context()); e != nil {
			t.Fatal(e)
		}
		until := c.recent.Front().Value.(*knownCaller).until
		if difference := until.Sub(want).Abs(); difference > 10*time.Second {
			t.Errorf("%v: %v too long or too short", lifetime, difference)
		}
		if id := c.identify(requestWith(bearer("acme/olivia"))); id.known() != (lifetime > 0) {
			t.Errorf("%v: known %v", lifetime, id.known())
		}
	}
}

func TestCallers_AreForgotten_WhenTheyAreTooMany(t *testing.T) {
	c := newTestCallers(t, newTokenStub())
	until := time.Now().Add(time.Minute)
	for n := range maxKnown + 1 {
		if n == maxKnown {
			c.identify(requestWith(bearer("a/0"))) // used again
		}
		id := c.identify(requestWith(bearer(fmt.Sprintf("a/%d", n))))
		c.remember(&knownCaller{id.digest, user("a", fmt.Sprint(n)), until})
	}
	if len(c.known) != maxKnown || c.recent.Len() != maxKnown {
		t.Errorf("%d and %d remembered", len(c.known), c.recent.Len())
	}
	for n, want := range map[int]bool{0: true, 1: false, 2: true, maxKnown: true} {
		if id := c.identify(requestWith(bearer(fmt.Sprintf("a/%d", n)))); id.known() != want {
			t.Errorf("%d: known %v", n, id.known())
		}
	}
}

func TestCallers_AreNotRemembered_WhenTheyAreRejected(t *testing.T) {
	s := newTokenStub()
	c := newTestCallers(t, s)
	for range 2 {
		id := c.identify(requestWith(bearer("junk")))
		if e := id.learn(t.Context()); e == nil || e.Reason != "INVALID_TOKEN" || id.known() {
			t.Errorf("%+v %v", id.caller, e)
		}
	}
	if len(c.known) != 0 || len(c.pending) != 0 || s.lookups.Load() != 2 {
		t.Errorf("%d known, %d pending, %d lookups", len(c.known), len(c.pending), s.lookups.Load())
	}
}

func TestMemory_IsHeldByTheCaller_WhenItBecomesKnown(t *testing.T) {
	c := newTestCallers(t, newTokenStub())
	limits := newMemoryLimits(128 << 20)
	memory := newRequestMemory(limits, c.identify(requestWith(bearer("acme/olivia"))))
	held := limits.buffers.held
	if e := memory.buffers.reserve(t.Context(), 4<<20); e != nil || held(address("192.0.2.1")) != 4<<20 {
		t.Fatal(e)
	}
	if e := memory.learn(t.Context()); e != nil {
		t.Fatal(e)
	}
	if e := memory.buffers.resize(5 << 20); e != nil {
		t.Error(e)
	}
	if a, u := held(address("192.0.2.1")), held(user("acme", "olivia")); a != 0 || u != 5<<20 {
		t.Errorf("the address holds %d, the user %d", a, u)
	}
	memory.release()
	checkUnused(t, limits.buffers)
}

func TestMemory_IsNotCountedTwice_WhenItsCallerBecomesKnown(t *testing.T) {
	c := newTestCallers(t, newTokenStub())
	limits := newMemoryLimits(128 << 20)
	memory := newRequestMemory(limits, c.identify(requestWith(bearer("acme/olivia"))))
	if e := memory.buffers.reserve(t.Context(), 4<<20); e != nil {
		t.Fatal(e)
	}
	if e := memory.learn(t.Context()); e != nil {
		t.Fatal(e)
	}
	for n := 0; limits.buffers.tryAcquire(tenant(fmt.Sprint(n)), 4<<20); n++ {
	}
	if e := memory.buffers.resize(5 << 20); e == nil {
		t.Error("more than all is held")
	}
	if e := memory.buffers.resize(4 << 20); e != nil {
		t.Errorf("the same amount: %v", e)
	}
}

func TestMemory_IsReserved_WhenOtherUnknownCallersHaveTheSameAddress(t *testing.T) {
	c := newTestCallers(t, newTokenStub())
	limits := newMemoryLimits(128 << 20)
	limits.buffers.wait = 0
	first := newRequestMemory(limits, c.identify(requestWith(bearer("acme/olivia"))))
	if e := first.buffers.reserve(t.Context(), 1<<30); e != nil || first.known() {
		t.Fatal(e)
	}
	second := newRequestMemory(limits, c.identify(requestWith(bearer("other/amir"))))
	if e := second.buffers.reserve(t.Context(), 4<<20); e != nil || second.buffers.holder != user("other", "amir") {
		t.Errorf("%+v %v", second.buffers.holder, e)
	}
	junk := newRequestMemory(limits, c.identify(requestWith(bearer("junk"))))
	if e := junk.buffers.reserve(t.Context(), 4<<20); e == nil || e.Reason != "INVALID_TOKEN" {
		t.Errorf("%v", e)
	}
	first.release()
	second.release()
	junk.release()
	checkUnused(t, limits.buffers)
}
