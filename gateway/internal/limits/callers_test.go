package limits

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
	"github.com/jobs-grpc/jobs-grpc/gateway/internal/apierror"
	"github.com/jobs-grpc/jobs-grpc/gateway/internal/gatewaytest"
)

func newTestCallers(t *testing.T, s jobsv1.JobServiceServer) *Callers {
	t.Helper()
	connection, err := grpc.NewClient(gatewaytest.ServeService(t, s), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { connection.Close() })
	return NewCallers(4, func() *grpc.ClientConn { return connection }, nil)
}

func requestWith(header http.Header) *http.Request {
	request := httptest.NewRequest("GET", "/customer/jobs/a", nil)
	request.Header = header
	return request
}

func TestCallers_AreOneCaller_UnderTenSpellingsOfAToken(t *testing.T) {
	for _, header := range gatewaytest.Spellings("acme/olivia", "acme") {
		c := newTestCallers(t, gatewaytest.NewTokenStub())
		id := c.Identify(requestWith(header))
		if id.Caller != address("192.0.2.1") {
			t.Errorf("%v: before the lookup: %+v", header, id.Caller)
		}
		if e := id.Learn(t.Context()); e != nil || id.Caller != user("acme", "olivia") {
			t.Errorf("%v: %+v %v", header, id.Caller, e)
		}
		if id := c.Identify(requestWith(header)); id.Caller != user("acme", "olivia") {
			t.Errorf("%v: not remembered: %+v", header, id.Caller)
		}
	}
}

func TestCallers_AreRememberedOnce_UnderTenSpellingsOfAToken(t *testing.T) {
	s := gatewaytest.NewTokenStub()
	c := newTestCallers(t, s)
	for _, header := range gatewaytest.Spellings("acme/olivia", "acme") {
		if e := c.Identify(requestWith(header)).Learn(t.Context()); e != nil {
			t.Fatal(e)
		}
	}
	// With the tenant and without.
	if len(c.known) != 2 || s.Lookups.Load() != 2 {
		t.Errorf("%d remembered after %d lookups", len(c.known), s.Lookups.Load())
	}
	for _, other := range []string{"Bearer acme/Olivia", "Basic acme/olivia", "Beareracme/olivia", "acme/olivia", "Bearer"} {
		if id := c.Identify(requestWith(http.Header{"Authorization": {other}})); id.Known() {
			t.Errorf("%s is known", other)
		}
	}
}

func TestCallers_CountByTenantAlone_WithoutTokens(t *testing.T) {
	c := newTestCallers(t, &gatewaytest.Stub{})
	id := c.Identify(requestWith(http.Header{"X-Tenant-Id": {"acme"}, "X-User-Id": {"anything"}}))
	if e := id.Learn(t.Context()); e != nil || id.Caller != tenant("acme") {
		t.Errorf("%+v %v", id.Caller, e)
	}
}

func TestCallers_ShareOneLookup_WhenCredentialsAreTheSame(t *testing.T) {
	s := gatewaytest.NewTokenStub()
	s.Blocked = make(chan struct{})
	c := newTestCallers(t, s)
	ids := make([]*Identity, 10)
	var learning sync.WaitGroup
	for i := range ids {
		ids[i] = c.Identify(requestWith(gatewaytest.Bearer("acme/olivia")))
	}
	for _, id := range ids[1:] {
		learning.Go(func() {
			if e := id.Learn(t.Context()); e != nil || id.Caller != user("acme", "olivia") {
				t.Errorf("%+v %v", id.Caller, e)
			}
		})
	}
	for s.Lookups.Load() == 0 {
		runtime.Gosched()
	}
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	if e := ids[0].Learn(canceled); e == nil || ids[0].Known() {
		t.Error("a canceled request waited for the lookup")
	}
	close(s.Blocked)
	learning.Wait()
	if got := s.Lookups.Load(); got != 1 {
		t.Errorf("%d lookups", got)
	}
}

func TestCallers_AreNotLookedUp_WhenNoRequestWaits(t *testing.T) {
	s := gatewaytest.NewTokenStub()
	s.Blocked = make(chan struct{})
	c := newTestCallers(t, s)
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	const disconnected = 200 // more than there are lookups at a time
	for n := range disconnected {
		c.Identify(requestWith(gatewaytest.Bearer(fmt.Sprintf("acme/%d", n)))).Learn(canceled)
	}
	c.mu.Lock()
	if len(c.pending) != 0 {
		t.Errorf("%d lookups of clients that have disconnected", len(c.pending))
	}
	c.mu.Unlock()
	close(s.Blocked)
	id := c.Identify(requestWith(gatewaytest.Bearer("acme/0")))
	if e := id.Learn(t.Context()); e != nil || id.Caller != user("acme", "0") {
		t.Errorf("%+v %v", id.Caller, e)
	}
}

func TestCallers_GetTheirOwnRequestID_WhenTheLookupTheyShareFails(t *testing.T) {
	c := newTestCallers(t, gatewaytest.NewTokenStub())
	c.lookups.Wait = 0
	for c.lookups.TryAcquire(address("192.0.2.1"), 1) {
	}
	l := c.lookUp(c.Identify(requestWith(gatewaytest.Bearer("acme/olivia"))))
	<-l.done
	var writing sync.WaitGroup
	for _, requestID := range []string{"first", "second"} {
		writing.Go(func() {
			e := apierror.FromGRPC(t.Context(), l.err)
			recorder := httptest.NewRecorder()
			recorder.Header().Set("X-Request-Id", requestID)
			e.Write(recorder)
			if body := recorder.Body.String(); e.RequestID != "" || !strings.Contains(body, `"request_id":"`+requestID+`"`) {
				t.Errorf("%q, shared: %q", body, e.RequestID)
			}
		})
	}
	writing.Wait()
}

func TestCallers_AreRememberedUntilTheTokenExpires_AtMostForAMinute(t *testing.T) {
	s := gatewaytest.NewTokenStub()
	for _, lifetime := range []time.Duration{-time.Second, 30 * time.Second, time.Hour} {
		s.Expiry = time.Now().Add(lifetime)
		c := newTestCallers(t, s)
		want := time.Now().Add(min(lifetime, time.Minute))
		if e := c.Identify(requestWith(gatewaytest.Bearer("acme/olivia"))).Learn(t.Context()); e != nil {
			t.Fatal(e)
		}
		until := c.recent.Front().Value.(*knownCaller).until
		if difference := until.Sub(want).Abs(); difference > 10*time.Second {
			t.Errorf("%v: %v too long or too short", lifetime, difference)
		}
		if id := c.Identify(requestWith(gatewaytest.Bearer("acme/olivia"))); id.Known() != (lifetime > 0) {
			t.Errorf("%v: known %v", lifetime, id.Known())
		}
	}
}

func TestCallers_AreForgotten_WhenTheyAreTooMany(t *testing.T) {
	c := newTestCallers(t, gatewaytest.NewTokenStub())
	until := time.Now().Add(time.Minute)
	for n := range maxKnown + 1 {
		if n == maxKnown {
			c.Identify(requestWith(gatewaytest.Bearer("a/0"))) // used again
		}
		id := c.Identify(requestWith(gatewaytest.Bearer(fmt.Sprintf("a/%d", n))))
		c.remember(&knownCaller{id.digest, user("a", fmt.Sprint(n)), until})
	}
	if len(c.known) != maxKnown || c.recent.Len() != maxKnown {
		t.Errorf("%d and %d remembered", len(c.known), c.recent.Len())
	}
	for n, want := range map[int]bool{0: true, 1: false, 2: true, maxKnown: true} {
		if id := c.Identify(requestWith(gatewaytest.Bearer(fmt.Sprintf("a/%d", n)))); id.Known() != want {
			t.Errorf("%d: known %v", n, id.Known())
		}
	}
}

func TestCallers_AreNotRemembered_WhenTheyAreRejected(t *testing.T) {
	s := gatewaytest.NewTokenStub()
	c := newTestCallers(t, s)
	for range 2 {
		id := c.Identify(requestWith(gatewaytest.Bearer("junk")))
		if e := id.Learn(t.Context()); e == nil || e.Reason != "INVALID_TOKEN" || id.Known() {
			t.Errorf("%+v %v", id.Caller, e)
		}
	}
	if len(c.known) != 0 || len(c.pending) != 0 || s.Lookups.Load() != 2 {
		t.Errorf("%d known, %d pending, %d lookups", len(c.known), len(c.pending), s.Lookups.Load())
	}
}

func TestMemory_IsHeldByTheCaller_WhenItBecomesKnown(t *testing.T) {
	c := newTestCallers(t, gatewaytest.NewTokenStub())
	limits := NewMemoryLimits(128 << 20)
	memory := NewRequestMemory(limits, c.Identify(requestWith(gatewaytest.Bearer("acme/olivia"))))
	held := func(holder Caller) int64 {
		limits.Buffers.mu.Lock()
		defer limits.Buffers.mu.Unlock()
		return limits.Buffers.find(holder).used
	}
	if e := memory.Buffers.Reserve(t.Context(), 4<<20); e != nil || held(address("192.0.2.1")) != 4<<20 {
		t.Fatal(e)
	}
	if e := memory.Learn(t.Context()); e != nil {
		t.Fatal(e)
	}
	if e := memory.Buffers.Resize(5 << 20); e != nil {
		t.Error(e)
	}
	if a, u := held(address("192.0.2.1")), held(user("acme", "olivia")); a != 0 || u != 5<<20 {
		t.Errorf("the address holds %d, the user %d", a, u)
	}
	memory.Release()
	if used := limits.Buffers.root.used; used != 0 {
		t.Errorf("%d used", used)
	}
}

func TestMemory_IsNotCountedTwice_WhenItsCallerBecomesKnown(t *testing.T) {
	c := newTestCallers(t, gatewaytest.NewTokenStub())
	limits := NewMemoryLimits(128 << 20)
	memory := NewRequestMemory(limits, c.Identify(requestWith(gatewaytest.Bearer("acme/olivia"))))
	if e := memory.Buffers.Reserve(t.Context(), 4<<20); e != nil {
		t.Fatal(e)
	}
	if e := memory.Learn(t.Context()); e != nil {
		t.Fatal(e)
	}
	for n := 0; limits.Buffers.TryAcquire(tenant(fmt.Sprint(n)), 4<<20); n++ {
	}
	if e := memory.Buffers.Resize(5 << 20); e == nil {
		t.Error("more than all is held")
	}
	if e := memory.Buffers.Resize(4 << 20); e != nil {
		t.Errorf("the same amount: %v", e)
	}
}

func TestMemory_IsReserved_WhenOtherUnknownCallersHaveTheSameAddress(t *testing.T) {
	c := newTestCallers(t, gatewaytest.NewTokenStub())
	limits := NewMemoryLimits(128 << 20)
	limits.Buffers.Wait = 0
	first := NewRequestMemory(limits, c.Identify(requestWith(gatewaytest.Bearer("acme/olivia"))))
	if e := first.Buffers.Reserve(t.Context(), 1<<30); e != nil || first.Known() {
		t.Fatal(e)
	}
	second := NewRequestMemory(limits, c.Identify(requestWith(gatewaytest.Bearer("other/amir"))))
	if e := second.Buffers.Reserve(t.Context(), 4<<20); e != nil || second.Buffers.holder != user("other", "amir") {
		t.Errorf("%+v %v", second.Buffers.holder, e)
	}
	junk := NewRequestMemory(limits, c.Identify(requestWith(gatewaytest.Bearer("junk"))))
	if e := junk.Buffers.Reserve(t.Context(), 4<<20); e == nil || e.Reason != "INVALID_TOKEN" {
		t.Errorf("%v", e)
	}
	first.Release()
	second.Release()
	junk.Release()
	checkUnused(t, limits.Buffers)
}
