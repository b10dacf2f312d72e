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
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	jobsv1 "github.com/jobs-grpc/jobs-grpc/gateway/gen/fleet/jobs/v1"
)

// metadataCallers answers GetCaller like a server without tokens.
type metadataCallers struct {
	jobsv1.UnimplementedJobServiceServer
}

func (metadataCallers) GetCaller(ctx context.Context, _ *jobsv1.GetCallerRequest) (*jobsv1.GetCallerResponse, error) {
	if tenants := metadata.ValueFromIncomingContext(ctx, "x-tenant-id"); len(tenants) == 1 {
		return &jobsv1.GetCallerResponse{TenantId: tenants[0]}, nil
	}
	return nil, serviceError(codes.Unauthenticated, "TENANT_REQUIRED")
}

// stub is a JobService with fixed responses. GetJob records its metadata and deadline.
type stub struct {
	metadataCallers
	job *jobsv1.Job
	err error // returned by every method

	metadata    metadata.MD
	deadline    time.Time
	hasDeadline bool
}

func (s *stub) CreateJob(_ context.Context, r *jobsv1.CreateJobRequest) (*jobsv1.CreateJobResponse, error) {
	return &jobsv1.CreateJobResponse{JobId: r.JobId, Status: jobsv1.Job_IN_PROGRESS, ExecutionCount: 1}, s.err
}

func (s *stub) ListJobs(context.Context, *jobsv1.ListJobsRequest) (*jobsv1.ListJobsResponse, error) {
	jobs := make([]*jobsv1.Job, 50)
	for i := range jobs {
		jobs[i] = s.job
	}
	return &jobsv1.ListJobsResponse{Jobs: jobs}, s.err
}

func (s *stub) GetJob(ctx context.Context, _ *jobsv1.GetJobRequest) (*jobsv1.GetJobResponse, error) {
	s.metadata, _ = metadata.FromIncomingContext(ctx)
	s.deadline, s.hasDeadline = ctx.Deadline()
	return &jobsv1.GetJobResponse{Job: s.job}, s.err
}

// serveStub serves s on a free port until the test ends.
func serveStub(tb testing.TB, s *stub, options ...grpc.ServerOption) (address string) {
	tb.Helper()
	return serveService(tb, s, options...)
}

// serveService serves s and the health service on a free port until the test ends.
func serveService(tb testing.TB, s jobsv1.JobServiceServer, options ...grpc.ServerOption) (address string) {
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

func newMessage(descriptor protoreflect.MessageDescriptor) proto.Message {
	known, err := protoregistry.GlobalTypes.FindMessageByName(descriptor.FullName())
	if err != nil {
		panic(err) // the generated code registers every message
	}
	return known.New().Interface()
}

var discardLogger = slog.New(slog.DiscardHandler)

func loadTestConfig(tb testing.TB, env map[string]string) *Config {
	tb.Helper()
	config, err := loadConfig(nil, func(name string) (string, bool) { v, ok := env[name]; return v, ok })
	if err != nil {
		tb.Fatal(err)
	}
	return config
}

// newTestGateway returns the handler of a gateway with these environment variables.
func newTestGateway(tb testing.TB, env map[string]string) http.Handler {
	tb.Helper()
	config := loadTestConfig(tb, env)
	upstream, err := dialUpstream(config, discardLogger)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { upstream.Close() })
	handler, err := newHandler(nil, config, upstream, newMetrics(), nil, discardLogger)
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
	request.Host = "localhost"
	for name, values := range header {
		request.Header[http.CanonicalHeaderKey(name)] = values
	}
	recorder := httptest.NewRecorder()
	handler.ServeHTTP(recorder, request)
	return recorder.Result()
}
