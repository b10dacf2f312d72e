package main

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"

	jobsv1 "github.com/jobs-grpc/jobs-grpc/gateway/gen/fleet/jobs/v1"
)

// stub is a job service that answers at once, and remembers how it was called.
type stub struct {
	jobsv1.UnimplementedJobServiceServer
	job  *jobsv1.Job
	fail error

	metadata    metadata.MD
	deadline    time.Time
	hasDeadline bool
}

func (s *stub) CreateJob(_ context.Context, r *jobsv1.CreateJobRequest) (*jobsv1.CreateJobResponse, error) {
	return &jobsv1.CreateJobResponse{JobId: r.JobId, Status: jobsv1.Job_IN_PROGRESS, ExecutionCount: 1}, s.fail
}

func (s *stub) ListJobs(context.Context, *jobsv1.ListJobsRequest) (*jobsv1.ListJobsResponse, error) {
	jobs := make([]*jobsv1.Job, 50)
	for i := range jobs {
		jobs[i] = s.job
	}
	return &jobsv1.ListJobsResponse{Jobs: jobs}, s.fail
}

func (s *stub) GetJob(ctx context.Context, _ *jobsv1.GetJobRequest) (*jobsv1.GetJobResponse, error) {
	s.metadata, _ = metadata.FromIncomingContext(ctx)
	s.deadline, s.hasDeadline = ctx.Deadline()
	return &jobsv1.GetJobResponse{Job: s.job}, s.fail
}

// serveStub serves it on a free port until the test ends.
func serveStub(tb testing.TB, s *stub, options ...grpc.ServerOption) (address string) {
	tb.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	server := grpc.NewServer(options...)
	jobsv1.RegisterJobServiceServer(server, s)
	grpc_health_v1.RegisterHealthServer(server, health.NewServer())
	go server.Serve(listener)
	tb.Cleanup(server.Stop)
	return listener.Addr().String()
}

var discard = slog.New(slog.DiscardHandler)

// newGateway is the whole handler in front of an upstream.
func newGateway(tb testing.TB, environment map[string]string) http.Handler {
	tb.Helper()
	config, err := readConfig(nil, func(name string) (string, bool) { v, ok := environment[name]; return v, ok })
	if err != nil {
		tb.Fatal(err)
	}
	upstream, err := dial(config, discard)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { upstream.Close() })
	handler, err := newHandler(config, upstream, newMetrics(), discard)
	if err != nil {
		tb.Fatal(err)
	}
	return handler
}

func get(handler http.Handler, path string, header http.Header) *http.Response {
	return send(handler, http.MethodGet, path, header, "")
}

func send(handler http.Handler, method, path string, header http.Header, body string) *http.Response {
	request := httptest.NewRequest(method, path, strings.NewReader(body))
	for name, values := range header {
		request.Header[http.CanonicalHeaderKey(name)] = values
	}
	recorder := httptest.NewRecorder()
	handler.ServeHTTP(recorder, request)
	return recorder.Result()
}
