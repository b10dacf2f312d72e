package upstream

import (
	"context"
	"io"
	"net"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"

	jobsv1 "github.com/jobs-grpc/jobs-grpc/gateway/gen/fleet/jobs/v1"
	"github.com/jobs-grpc/jobs-grpc/gateway/internal/apierror"
	"github.com/jobs-grpc/jobs-grpc/gateway/internal/gatewaytest"
	"github.com/jobs-grpc/jobs-grpc/gateway/internal/limits"
)

func TestCallsSkipConnectionsThatFailed(t *testing.T) {
	// Nothing listens here anymore.
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	listener.Close()
	var connections []*grpc.ClientConn
	for range 3 {
		connection, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		defer connection.Close()
		connections = append(connections, connection)
	}
	for _, failed := range connections[:2] {
		failed.Connect()
		for state := failed.GetState(); state != connectivity.TransientFailure; state = failed.GetState() {
			failed.WaitForStateChange(t.Context(), state)
		}
	}

	all, failed := &pool{all: connections}, &pool{all: connections[:2]}
	for turn := range 6 {
		if all.next() != connections[2] {
			t.Fatalf("turn %d: got a connection that failed", turn)
		}
	}
	for turn := range 6 {
		if failed.next() != connections[(turn+1)%2] {
			t.Fatalf("turn %d: connections that failed do not take turns", turn)
		}
	}
}

// newTestUpstream returns an upstream with these environment variables.
func newTestUpstream(t *testing.T, env map[string]string) *Upstream {
	t.Helper()
	upstream, err := Dial(gatewaytest.LoadTestConfig(t, env), gatewaytest.DiscardLogger)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(upstream.Close)
	return upstream
}

// requestContext returns the context of a request of a tenant.
func requestContext(t *testing.T, memory *limits.MemoryLimits, callers *limits.Callers, tenant string) context.Context {
	request := httptest.NewRequest("GET", "/", nil)
	request.Header.Set("X-Tenant-Id", tenant)
	return limits.WithRequestMemory(t.Context(), limits.NewRequestMemory(memory, callers.Identify(request)))
}

func TestUpstream_RejectsCalls_WhenConnectionsAreFull(t *testing.T) {
	s, address := gatewaytest.ServeBlockingStub(t)
	upstream := newTestUpstream(t, map[string]string{"JOBS_GATEWAY_UPSTREAM": address, "JOBS_GATEWAY_UPSTREAM_CONNECTIONS": "1"})
	upstream.calls.Wait = 0
	memory, callers := limits.NewMemoryLimits(128<<20), upstream.NewCallers(nil)
	call := func() error {
		_, err := jobsv1.NewJobServiceClient(upstream).GetJob(requestContext(t, memory, callers, "acme"), &jobsv1.GetJobRequest{})
		return err
	}
	var calls sync.WaitGroup
	// It has more than its address may have. So the server is asked who it is, and it has those of its tenant.
	for range limits.SubjectStreamsPerConnection + limits.TenantStreamsPerConnection {
		calls.Go(func() { call() })
		<-s.Started
	}
	recorder := httptest.NewRecorder()
	apierror.FromGRPC(t.Context(), call()).Write(recorder)
	gatewaytest.CheckOverloaded(t, recorder.Result(), "JOBS_GATEWAY_UPSTREAM_CONNECTIONS is 1")
	health := grpc_health_v1.NewHealthClient(upstream)
	if _, err := health.Check(requestContext(t, memory, callers, "acme"), &grpc_health_v1.HealthCheckRequest{}); err != nil {
		t.Errorf("health check: %v", err)
	}
	close(s.Release)
	calls.Wait()
}

func TestMemory_RejectsLargeRequests_WhenTheLimitIsReached(t *testing.T) {
	job := &jobsv1.Job{CancelReason: new(string)}
	*job.CancelReason = strings.Repeat("x", 1<<20)
	upstream := newTestUpstream(t, map[string]string{"JOBS_GATEWAY_UPSTREAM": gatewaytest.ServeStub(t, &gatewaytest.Stub{Job: job})})
	memory, callers := limits.NewMemoryLimits(128<<20), upstream.NewCallers(nil)
	memory.Buffers.Wait, memory.Messages.Wait = 0, 0
	ctx := func(tenant string) context.Context {
		ctx := requestContext(t, memory, callers, tenant)
		if e := limits.RequestMemoryFromContext(ctx).Learn(ctx); e != nil {
			t.Fatal(e)
		}
		return ctx
	}
	jobs := jobsv1.NewJobServiceClient(upstream)

	first, second := ctx("acme"), ctx("acme")
	full := limits.RequestMemoryFromContext(ctx("acme"))
	if _, err := jobs.GetJob(first, &jobsv1.GetJobRequest{}); err != nil {
		t.Fatal(err)
	}
	if held := limits.RequestMemoryFromContext(first).Buffers.Held; held < 1<<20 || held > 7<<20 {
		t.Errorf("the response holds %d bytes", held)
	}
	if e := full.Buffers.Resize(memory.Buffers.Maximum(full.Caller) - 8<<20); e != nil {
		t.Fatal(e)
	}
	_, err := jobs.GetJob(second, &jobsv1.GetJobRequest{})
	if e := apierror.FromGRPC(t.Context(), err); e.Reason != "OVERLOADED" || !strings.Contains(e.Detail, "JOBS_GATEWAY_MAX_BUFFERED_BYTES is 134217728") {
		t.Errorf("%+v", e)
	}
	if _, err := jobs.GetJob(ctx("other"), &jobsv1.GetJobRequest{}); err != nil {
		t.Errorf("another caller: %v", err)
	}
	// A call that may have had an effect does not fail for its response.
	if _, err := jobs.CreateJob(second, &jobsv1.CreateJobRequest{JobId: strings.Repeat("x", limits.FreeBytes)}); err != nil {
		t.Errorf("CreateJob: %v", err)
	}
	w := &limits.BoundedWriter{ResponseWriter: httptest.NewRecorder(), Memory: limits.RequestMemoryFromContext(first)}
	io.WriteString(w, "short")
	if m := limits.RequestMemoryFromContext(first); m.Buffers.Held+m.Messages.Held != 0 {
		t.Errorf("a short response holds %d and %d bytes", m.Buffers.Held, m.Messages.Held)
	}
}
