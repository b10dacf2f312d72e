package watch

import (
	"context"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"

	jobsv1 "github.com/jobs-grpc/jobs-grpc/gateway/gen/fleet/jobs/v1"
	"github.com/jobs-grpc/jobs-grpc/gateway/internal/gatewaytest"
	"github.com/jobs-grpc/jobs-grpc/gateway/internal/limits"
	"github.com/jobs-grpc/jobs-grpc/gateway/internal/upstream"
)

// watchers opens watches of several callers at a gateway in front of a server that can stop.
type watchers struct {
	t       *testing.T
	url     string
	watches *Handler
	server  *grpc.Server
}

func newWatchers(t *testing.T, maximum int) *watchers {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &watchers{t: t, server: grpc.NewServer()}
	jobsv1.RegisterJobServiceServer(w.server, gatewaytest.NewTokenStub())
	go w.server.Serve(listener)
	t.Cleanup(w.server.Stop)
	config := gatewaytest.LoadTestConfig(t, map[string]string{
		"JOBS_GATEWAY_UPSTREAM": listener.Addr().String(), "JOBS_GATEWAY_MAX_WATCHES": fmt.Sprint(maximum),
	})
	upstream, err := upstream.Dial(config, gatewaytest.DiscardLogger)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(upstream.Close)
	callers := upstream.NewCallers(config.TrustedProxies)
	w.watches = NewHandler(nil, config, upstream, limits.NewMemoryLimits(config.MaxBufferedBytes))
	w.watches.heartbeat, w.watches.reconnect = time.Millisecond, time.Millisecond
	gateway := httptest.NewServer(http.HandlerFunc(func(writer http.ResponseWriter, r *http.Request) {
		if from := r.Header.Get("From-Address"); from != "" {
			r.RemoteAddr = from + ":1"
		}
		w.watches.ServeJob(writer, r, callers.Identify(r), "a")
	}))
	t.Cleanup(gateway.Close)
	w.url = gateway.URL
	return w
}

// request opens a watch that waits while the server is away.
func (w *watchers) request(header http.Header) *http.Response {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	w.t.Cleanup(cancel)
	request, _ := http.NewRequestWithContext(ctx, http.MethodGet, w.url, nil)
	request.Header = maps.Clone(header)
	request.Header.Set("Last-Event-ID", "older")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { response.Body.Close() })
	return response
}

// open reports whether a watch sends a state.
func (w *watchers) open(header http.Header) bool {
	w.t.Helper()
	response := w.request(header)
	// A heartbeat may have started the response before the caller was known.
	all, _ := events(w.t, response, 1)
	return response.StatusCode == http.StatusOK && len(all) == 1 && all[0].name == ""
}

// waits reports whether a watch waits for the server, which is away.
func (w *watchers) waits(header http.Header) bool {
	w.t.Helper()
	return w.request(header).StatusCode == http.StatusOK
}

func from(header http.Header, address string) http.Header {
	header = header.Clone()
	header.Set("From-Address", address)
	return header
}

func TestWatch_GivesOneTokenHalfOfItsTenantsShare_UnderTenSpellings(t *testing.T) {
	w := newWatchers(t, 40)
	accepted := 0
	for range 4 {
		for _, header := range gatewaytest.Spellings("acme/olivia", "acme") {
			if w.open(header) {
				accepted++
			}
		}
	}
	if accepted != 10 {
		t.Errorf("%d watches of one token", accepted)
	}
	if !w.open(gatewaytest.Bearer("acme/amir")) {
		t.Error("another user of the tenant is refused")
	}
	if !w.open(gatewaytest.Bearer("other/olivia")) {
		t.Error("another tenant is refused")
	}
}

func TestWatch_GivesOneTenantHalf_WithTokensOfTenUsers(t *testing.T) {
	w := newWatchers(t, 40)
	accepted := 0
	for n := range 40 {
		if w.open(gatewaytest.Bearer(fmt.Sprintf("acme/user-%d", n%10))) {
			accepted++
		}
	}
	if accepted != 20 {
		t.Errorf("%d watches of one tenant", accepted)
	}
	if !w.open(gatewaytest.Bearer("other/olivia")) {
		t.Error("another tenant is refused")
	}
}

func TestWatch_HoldsJunkTokensInAQuarter_WhileTheServerIsAway(t *testing.T) {
	w := newWatchers(t, 40)
	if !w.open(gatewaytest.Bearer("acme/olivia")) {
		t.Fatal("refused")
	}
	w.server.Stop()
	accepted := 0
	for n := range 40 {
		if w.waits(from(gatewaytest.Bearer(fmt.Sprintf("junk-%d", n)), "198.51.100.1")) {
			accepted++
		}
	}
	if accepted != 5 {
		t.Errorf("one address opened %d watches with junk tokens", accepted)
	}
	for n := range 40 {
		if w.waits(from(gatewaytest.Bearer(fmt.Sprintf("junk-%d", n)), fmt.Sprintf("203.0.113.%d", n))) {
			accepted++
		}
	}
	if accepted != 10 {
		t.Errorf("junk tokens opened %d watches", accepted)
	}
	if !w.waits(gatewaytest.Bearer("acme/olivia")) {
		t.Error("a caller that is known is refused")
	}
	olivia := limits.Caller{Tenant: "acme", Subject: "user olivia"}
	if !w.watches.jobSlots.TryAcquire(olivia, 8) || w.watches.jobSlots.TryAcquire(olivia, 1) {
		t.Error("the known caller does not hold 2 of its 10 slots")
	}
}

func TestWatch_IsServed_WhenItTakesTheLastSlot(t *testing.T) {
	w := newWatchers(t, 4)
	if !w.open(gatewaytest.Bearer("a/x")) || !w.open(gatewaytest.Bearer("a/y")) || !w.open(gatewaytest.Bearer("b/x")) {
		t.Fatal("refused")
	}
	if !w.open(gatewaytest.Bearer("c/x")) {
		t.Error("a caller that is not known needs two slots")
	}
	if w.open(gatewaytest.Bearer("d/x")) {
		t.Error("more watches than slots")
	}
}

func TestWatch_IsServed_WhenManyOpenAtOnceFromOneAddress(t *testing.T) {
	w := newWatchers(t, 8) // one of them for callers that are not known, from one address
	var opening sync.WaitGroup
	for n := range 8 {
		opening.Go(func() {
			if n < 4 && w.open(gatewaytest.Bearer("junk")) {
				t.Error("a junk token is accepted")
			}
			if n >= 4 && !w.open(gatewaytest.Bearer(fmt.Sprintf("tenant-%d/olivia", n))) {
				t.Errorf("watch %d is refused", n)
			}
		})
	}
	opening.Wait()
}
