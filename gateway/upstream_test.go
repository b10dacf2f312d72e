package main

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
	"google.golang.org/grpc/metadata"

	jobsv1 "github.com/jobs-grpc/jobs-grpc/gateway/gen/fleet/jobs/v1"
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

	for turn := range uint64(6) {
		if nextConnection(connections, turn) != connections[2] {
			t.Fatalf("turn %d: got a connection that failed", turn)
		}
	}
	for turn := range uint64(6) {
		if nextConnection(connections[:2], turn) != connections[turn%2] {
			t.Fatalf("turn %d: connections that failed do not take turns", turn)
		}
	}
}

// newTestUpstream returns an upstream with these environment variables.
func newTestUpstream(t *testing.T, env map[string]string) *upstream {
	t.Helper()
	upstream, err := dialUpstream(loadTestConfig(t, env), discardLogger)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(upstream.Close)
	return upstream
}

// requestContext returns the context of a request of a tenant.
func requestContext(t *testing.T, memory *memoryLimits, callers *callers, tenant string) context.Context {
	request := httptest.NewRequest("GET", "/", nil)
	request.Header.Set("X-Tenant-Id", tenant)
	ctx := metadata.AppendToOutgoingContext(t.Context(), "x-tenant-id", tenant)
	return withRequestMemory(ctx, newRequestMemory(memory, callers.identify(request)))
}

func TestUpstream_RejectsCalls_WhenConnectionsAreFull(t *testing.T) {
	s, address := serveBlockingStub(t)
	upstream := newTestUpstream(t, map[string]string{"JOBS_GATEWAY_UPSTREAM": address, "JOBS_GATEWAY_UPSTREAM_CONNECTIONS": "1"})
	upstream.calls.wait = 0
	memory, callers := newMemoryLimits(128<<20), upstream.newCallers(nil)
	call := func() error {
		_, err := jobsv1.NewJobServiceClient(upstream).GetJob(requestContext(t, memory, callers, "acme"), &jobsv1.GetJobRequest{})
		return err
	}
	var calls sync.WaitGroup
	// It has more than its address may have. So the server is asked who it is, and it has those of its tenant.
	for range subjectStreamsPerConnection + tenantStreamsPerConnection {
		calls.Go(func() { call() })
		<-s.started
	}
	recorder := httptest.NewRecorder()
	e, _ := convertError(call())
	e.write(recorder)
	checkOverloaded(t, recorder.Result(), "JOBS_GATEWAY_UPSTREAM_CONNECTIONS is 1")
	health := grpc_health_v1.NewHealthClient(upstream)
	if _, err := health.Check(requestContext(t, memory, callers, "acme"), &grpc_health_v1.HealthCheckRequest{}); err != nil {
		t.Errorf("health check: %v", err)
	}
	close(s.release)
	calls.Wait()
}

func TestMemory_RejectsLargeRequests_WhenTheLimitIsReached(t *testing.T) {
	job := &jobsv1.Job{CancelReason: new(string)}
	*job.CancelReason = strings.Repeat("x", 1<<20)
	upstream := newTestUpstream(t, map[string]string{"JOBS_GATEWAY_UPSTREAM": serveStub(t, &stub{job: job})})
	memory, callers := newMemoryLimits(128<<20), upstream.newCallers(nil)
	memory.buffers.wait = 0
	ctx := func(tenant string) context.Context {
		ctx := requestContext(t, memory, callers, tenant)
		if e := requestMemoryFromContext(ctx).learn(ctx); e != nil {
			t.Fatal(e)
		}
		return ctx
	}
	jobs := jobsv1.NewJobServiceClient(upstream)

	first, second := ctx("acme"), ctx("acme")
	full := requestMemoryFromContext(ctx("acme"))
	if _, err := jobs.GetJob(first, &jobsv1.GetJobRequest{}); err != nil {
		t.Fatal(err)
	}
	if held := requestMemoryFromContext(first).buffers.held; held < 1<<20 || held > 7<<20 {
		t.Errorf("the response holds %d bytes", held)
	}
	if e := full.buffers.resize(memory.buffers.maximum(full.caller) - 8<<20); e != nil {
		t.Fatal(e)
	}
	_, err := jobs.GetJob(second, &jobsv1.GetJobRequest{})
	if e, _ := convertError(err); e.Reason != "OVERLOADED" || !strings.Contains(e.Detail, "JOBS_GATEWAY_MAX_BUFFERED_BYTES is 134217728") {
		t.Errorf("%+v", e)
	}
	if _, err := jobs.GetJob(ctx("other"), &jobsv1.GetJobRequest{}); err != nil {
		t.Errorf("another caller: %v", err)
	}
	// A call that may have had an effect does not fail for its response.
	if _, err := jobs.CreateJob(second, &jobsv1.CreateJobRequest{JobId: strings.Repeat("x", freeBytes)}); err != nil {
		t.Errorf("CreateJob: %v", err)
	}
	w := &boundedWriter{ResponseWriter: httptest.NewRecorder(), memory: requestMemoryFromContext(first)}
	io.WriteString(w, "short")
	if m := requestMemoryFromContext(first); m.buffers.held+m.messages.held != 0 {
		t.Errorf("a short response holds %d and %d bytes", m.buffers.held, m.messages.held)
	}
}
