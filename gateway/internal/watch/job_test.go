package watch

import (
	"bufio"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	jobsv1 "github.com/jobs-grpc/jobs-grpc/gateway/gen/fleet/jobs/v1"
	"github.com/jobs-grpc/jobs-grpc/gateway/internal/apierror"
	"github.com/jobs-grpc/jobs-grpc/gateway/internal/gatewaytest"
	"github.com/jobs-grpc/jobs-grpc/gateway/internal/limits"
	"github.com/jobs-grpc/jobs-grpc/gateway/internal/upstream"
)

// watchStub sends the states of one call after the other. An error ends a call; without one, the call
// stays open.
type watchStub struct {
	gatewaytest.MetadataCallers
	calls chan watchCall
}

type watchCall struct {
	statuses []jobsv1.Job_Status
	err      error
	size     int // of each state, about
}

func (s *watchStub) WatchJob(r *jobsv1.WatchJobRequest, stream jobsv1.JobService_WatchJobServer) error {
	select {
	case call := <-s.calls:
		for _, each := range call.statuses {
			job := &jobsv1.Job{JobId: r.JobId, Status: each, DocumentType: strings.Repeat("x", call.size)}
			if err := stream.Send(&jobsv1.WatchJobResponse{Job: job}); err != nil {
				return err
			}
		}
		if call.err != nil {
			return call.err
		}
	case <-stream.Context().Done():
	}
	<-stream.Context().Done()
	return nil
}

type watchGateway struct {
	url      string
	client   *http.Client
	stopping chan struct{}
	stub     *watchStub
	watches  *Handler
	callers  *limits.Callers
}

// newWatchGateway serves a gateway in front of a stub with these calls. Its handler has short intervals.
func newWatchGateway(t *testing.T, env map[string]string, calls ...watchCall) *watchGateway {
	t.Helper()
	s := &watchStub{calls: make(chan watchCall, len(calls))}
	for _, call := range calls {
		s.calls <- call
	}
	g := newGateway(t, s, env)
	g.stub = s
	return g
}

// newGateway serves a gateway in front of s. Its handler has short intervals.
func newGateway(t *testing.T, s jobsv1.JobServiceServer, env map[string]string) *watchGateway {
	t.Helper()
	variables := map[string]string{"JOBS_GATEWAY_UPSTREAM": gatewaytest.ServeService(t, s)}
	for name, value := range env {
		variables[name] = value
	}
	config := gatewaytest.LoadTestConfig(t, variables)
	upstream, err := upstream.Dial(config, gatewaytest.DiscardLogger)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(upstream.Close)
	g := &watchGateway{client: http.DefaultClient, stopping: make(chan struct{})}
	g.watches = NewHandler(g.stopping, config, upstream, limits.NewMemoryLimits(config.MaxBufferedBytes))
	g.callers = upstream.NewCallers(nil)
	g.watches.heartbeat, g.watches.reconnect = time.Millisecond, time.Millisecond
	server := httptest.NewServer(g)
	t.Cleanup(server.Close)
	g.url = server.URL
	return g
}

func (g *watchGateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/events" {
		g.watches.ServeEvents(w, r, g.callers.Identify(r), r.URL.Query())
		return
	}
	g.watches.ServeJob(w, r, g.callers.Identify(r), "a")
}

func (g *watchGateway) get(t *testing.T, lastID string) *http.Response {
	t.Helper()
	return g.getPath(t, "", lastID)
}

func (g *watchGateway) getPath(t *testing.T, path, lastID string) *http.Response {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	request, _ := http.NewRequestWithContext(ctx, http.MethodGet, g.url+path, nil)
	request.Header.Set("X-Tenant-Id", "acme")
	if lastID != "" {
		request.Header.Set("Last-Event-ID", lastID)
	}
	response, err := g.client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { response.Body.Close() })
	return response
}

type watchEvent struct{ name, id, status, reason string }

// events returns the events of a response until it ends, or until want of them have arrived.
func events(t *testing.T, response *http.Response, want int) (all []watchEvent, heartbeats int) {
	t.Helper()
	lines := bufio.NewScanner(response.Body)
	lines.Buffer(nil, 1<<20)
	var current watchEvent
	for len(all) < want && lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), ": ")
		switch name {
		case "":
			if current != (watchEvent{}) {
				all = append(all, current)
			}
			current = watchEvent{}
			if value == "heartbeat" {
				heartbeats++
			}
		case "event":
			current.name = value
		case "id":
			current.id = value
		case "data":
			var data struct{ Status, Reason string }
			if err := json.Unmarshal([]byte(value), &data); err != nil {
				t.Fatal(err)
			}
			current.status, current.reason = data.Status, data.Reason
		}
	}
	return all, heartbeats
}

func statuses(all []watchEvent) string {
	var names []string
	for _, e := range all {
		names = append(names, e.status+e.reason)
	}
	return strings.Join(names, " ")
}

var unavailable = gatewaytest.ServiceError(codes.Unavailable, "SERVER_STOPPING")

func TestWatch_SendsStatesUntilJobIsFinished_AcrossRestartsOfTheServer(t *testing.T) {
	g := newWatchGateway(t, nil,
		watchCall{statuses: []jobsv1.Job_Status{jobsv1.Job_IN_PROGRESS, jobsv1.Job_PAUSED}, err: unavailable},
		watchCall{err: unavailable},
		// A server that stops may reset the call.
		watchCall{err: status.Error(codes.Canceled, "")},
		// The first state of the new call is known already.
		watchCall{statuses: []jobsv1.Job_Status{jobsv1.Job_PAUSED, jobsv1.Job_COMPLETED}},
	)

	response := g.get(t, "")
	all, _ := events(t, response, 100)

	if got := statuses(all); got != "IN_PROGRESS PAUSED COMPLETED" {
		t.Errorf("%s", got)
	}
	if got := response.Header.Get("Content-Type"); got != "text/event-stream" {
		t.Errorf("Content-Type %q", got)
	}
	ids := map[string]bool{}
	for _, e := range all {
		ids[e.id] = true
	}
	if len(ids) != 3 || ids[""] {
		t.Errorf("IDs %v", ids)
	}
}

func TestWatch_Resumes_WithLastEventID(t *testing.T) {
	finished := watchCall{statuses: []jobsv1.Job_Status{jobsv1.Job_COMPLETED}}
	g := newWatchGateway(t, nil, finished, watchCall{err: unavailable}, finished, finished)

	all, _ := events(t, g.get(t, ""), 100)
	if got := statuses(all); got != "COMPLETED" {
		t.Fatalf("%s", got)
	}
	// The client waits although the server is unavailable; the heartbeats start the response.
	if all, _ := events(t, g.get(t, "older"), 100); statuses(all) != "COMPLETED" {
		t.Errorf("after an older state: %v", all)
	}
	if response := g.get(t, all[0].id); response.StatusCode != http.StatusOK && response.StatusCode != http.StatusNoContent {
		t.Errorf("status %d", response.StatusCode)
	} else if again, _ := events(t, response, 100); len(again) != 0 {
		t.Errorf("the finished state was sent again: %v", again)
	}
}

func TestWatch_FailsWithTheStatus_BeforeTheFirstState(t *testing.T) {
	for reason, c := range map[string]struct {
		code codes.Code
		want int
	}{"JOB_NOT_FOUND": {codes.NotFound, 404}, "INVALID_TOKEN": {codes.Unauthenticated, 401}, "SERVER_STOPPING": {codes.Unavailable, 503}} {
		g := newWatchGateway(t, nil, watchCall{err: gatewaytest.ServiceError(c.code, reason)})
		response := g.get(t, "")
		var e apierror.Error
		// A heartbeat may have started the response.
		if response.StatusCode == c.want {
			if err := json.NewDecoder(response.Body).Decode(&e); err != nil || e.Reason != reason {
				t.Errorf("%s: %+v %v", reason, e, err)
			}
		} else if all, _ := events(t, response, 100); statuses(all) != reason {
			t.Errorf("%s: status %d, %v", reason, response.StatusCode, all)
		}
	}
}

func TestWatch_EndsWithAFailure_WhenTheTokenExpires(t *testing.T) {
	g := newWatchGateway(t, nil,
		watchCall{statuses: []jobsv1.Job_Status{jobsv1.Job_IN_PROGRESS}, err: gatewaytest.ServiceError(codes.Unauthenticated, "INVALID_TOKEN")})

	all, _ := events(t, g.get(t, ""), 100)

	if statuses(all) != "IN_PROGRESS INVALID_TOKEN" || all[1].name != "failure" || all[1].id != "" {
		t.Errorf("%v", all)
	}
}

func TestWatch_SendsHeartbeats_AndEndsWhenTheGatewayStops(t *testing.T) {
	g := newWatchGateway(t, nil, watchCall{statuses: []jobsv1.Job_Status{jobsv1.Job_IN_PROGRESS}})
	response := g.get(t, "")
	lines := bufio.NewScanner(response.Body)
	for beats := 0; beats < 3 && lines.Scan(); {
		if lines.Text() == ": heartbeat" {
			beats++
		}
	}

	close(g.stopping)

	if events, _ := events(t, response, 100); len(events) > 1 {
		t.Errorf("%v", events)
	}
}

func TestWatch_RejectsWatches_WhenTooManyAreOpen(t *testing.T) {
	open := watchCall{statuses: []jobsv1.Job_Status{jobsv1.Job_IN_PROGRESS}}
	g := newWatchGateway(t, map[string]string{"JOBS_GATEWAY_MAX_WATCHES": "4"}, open, open)
	for range 2 { // half of them: one tenant
		if response := g.get(t, ""); response.StatusCode != http.StatusOK {
			t.Fatal(response.Status)
		}
	}

	gatewaytest.CheckOverloaded(t, g.get(t, ""), "JOBS_GATEWAY_MAX_WATCHES")
}

func TestWatch_HoldsNoMemory_AfterItWasRefusedMemory(t *testing.T) {
	g := newWatchGateway(t, nil)
	memory := g.watches.limits
	memory.Messages.Wait = time.Millisecond
	half := int64(128 << 20 / 4) // of the limit of messages
	for _, name := range []string{"b", "c"} {
		memory.Messages.TryAcquire(limits.Caller{Tenant: name}, half)
	}
	large := watchCall{statuses: []jobsv1.Job_Status{jobsv1.Job_IN_PROGRESS}, err: unavailable, size: limits.FreeBytes}
	response := g.get(t, "older")
	for range 3 { // each is taken after the one before it was refused
		g.stub.calls <- large
	}
	for _, name := range []string{"b", "c"} {
		memory.Messages.Release(limits.Caller{Tenant: name}, half)
	}
	g.stub.calls <- watchCall{statuses: []jobsv1.Job_Status{jobsv1.Job_COMPLETED}, size: limits.FreeBytes}

	all, _ := events(t, response, 100)

	if len(all) == 0 || all[len(all)-1].status != "COMPLETED" {
		t.Errorf("%v", all)
	}
	checkFree(t, memory.Buffers)
	checkFree(t, memory.Messages)
}

func TestWatch_StaysOpen_WhenNothingIsSentForTheRequestTimeoutOverHTTP2(t *testing.T) {
	g := newWatchGateway(t, map[string]string{"JOBS_GATEWAY_REQUEST_TIMEOUT": "400ms"},
		watchCall{statuses: []jobsv1.Job_Status{jobsv1.Job_IN_PROGRESS}})
	g.watches.heartbeat = 600 * time.Millisecond
	server := httptest.NewUnstartedServer(g)
	server.EnableHTTP2 = true
	server.StartTLS()
	t.Cleanup(server.Close)
	g.url, g.client = server.URL, server.Client()

	response := g.get(t, "")

	if response.ProtoMajor != 2 {
		t.Fatal(response.Proto)
	}
	lines := bufio.NewScanner(response.Body)
	for lines.Scan() {
		if lines.Text() == ": heartbeat" {
			return
		}
	}
	t.Errorf("the response ended: %v", lines.Err())
}

// checkFree fails if something of the semaphore is held: two tenants must get all of it.
func checkFree(t *testing.T, s *limits.Semaphore) {
	t.Helper()
	for _, name := range []string{"free-1", "free-2"} {
		if tenant := (limits.Caller{Tenant: name}); !s.TryAcquire(tenant, s.Maximum(tenant)) {
			t.Error("memory is in use")
		}
	}
}
