package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/timestamppb"

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

// tokenStub answers GetCaller like a server with tokens. The token "acme/olivia" is of the user olivia of
// the tenant acme, and a token without a slash is invalid.
type tokenStub struct {
	stub
	lookups atomic.Int64
	expiry  time.Time     // of each token
	blocked chan struct{} // if set, GetCaller waits until it is closed
}

func newTokenStub() *tokenStub {
	return &tokenStub{stub: stub{job: &jobsv1.Job{}}, expiry: time.Now().Add(time.Hour)}
}

func (s *tokenStub) GetCaller(ctx context.Context, _ *jobsv1.GetCallerRequest) (*jobsv1.GetCallerResponse, error) {
	s.lookups.Add(1)
	if s.blocked != nil {
		<-s.blocked
	}
	// The scheme is in any case, and any number of spaces separates it from the token.
	fields := strings.Fields(strings.Join(metadata.ValueFromIncomingContext(ctx, "authorization"), ","))
	tenant, user, ok := strings.Cut(fields[len(fields)-1], "/")
	if !ok {
		return nil, serviceError(codes.Unauthenticated, "INVALID_TOKEN")
	}
	return &jobsv1.GetCallerResponse{TenantId: tenant, UserId: &user, TokenExpiresAt: timestamppb.New(s.expiry)}, nil
}

func (s *tokenStub) WatchJob(r *jobsv1.WatchJobRequest, stream jobsv1.JobService_WatchJobServer) error {
	if err := stream.Send(&jobsv1.WatchJobResponse{Job: &jobsv1.Job{JobId: r.JobId, Status: jobsv1.Job_IN_PROGRESS}}); err != nil {
		return err
	}
	<-stream.Context().Done()
	return nil
}

// spellings are ten ways to send one token.
func spellings(token, tenant string) (all []http.Header) {
	for _, scheme := range []string{"Bearer ", "bearer ", "BEARER ", "bEARER ", "Bearer  "} {
		header := http.Header{"Authorization": {scheme + token}}
		withTenant := header.Clone()
		withTenant.Set("X-Tenant-Id", tenant)
		all = append(all, header, withTenant)
	}
	return all
}

func bearer(token string) http.Header { return http.Header{"Authorization": {"Bearer " + token}} }

// blockingStub blocks every GetJob until release is closed, and records the connections.
type blockingStub struct {
	metadataCallers
	started chan struct{}
	release chan struct{}

	mu    sync.Mutex
	peers map[string]bool
}

func (s *blockingStub) GetJob(ctx context.Context, _ *jobsv1.GetJobRequest) (*jobsv1.GetJobResponse, error) {
	from, _ := peer.FromContext(ctx)
	s.mu.Lock()
	s.peers[from.Addr.String()] = true
	s.mu.Unlock()
	s.started <- struct{}{}
	<-s.release
	return &jobsv1.GetJobResponse{Job: &jobsv1.Job{}}, nil
}

func serveBlockingStub(t *testing.T) (*blockingStub, string) {
	s := &blockingStub{started: make(chan struct{}), release: make(chan struct{}), peers: map[string]bool{}}
	return s, serveService(t, s)
}

func checkOverloaded(t *testing.T, response *http.Response, setting string) {
	t.Helper()
	var e struct{ Code, Reason, Detail string }
	if err := json.NewDecoder(response.Body).Decode(&e); err != nil {
		t.Fatal(err)
	}
	if response.StatusCode != 429 || e.Code != "RESOURCE_EXHAUSTED" || e.Reason != "OVERLOADED" ||
		!strings.Contains(e.Detail, setting) || response.Header.Get("Retry-After") != "1" {
		t.Errorf("%d %+v %v, want OVERLOADED with %s", response.StatusCode, e, response.Header, setting)
	}
}

// unaryMethods returns the unary methods of both services.
func unaryMethods() (all []protoreflect.MethodDescriptor) {
	for _, file := range []protoreflect.FileDescriptor{jobsv1.File_fleet_jobs_v1_jobs_proto, jobsv1.File_fleet_jobs_v1_device_jobs_proto} {
		methods := file.Services().Get(0).Methods()
		for i := range methods.Len() {
			if !methods.Get(i).IsStreamingServer() {
				all = append(all, methods.Get(i))
			}
		}
	}
	return all
}

func serviceError(code codes.Code, reason string) error {
	st, _ := status.New(code, "text").WithDetails(&errdetails.ErrorInfo{Domain: "jobs-grpc", Reason: reason})
	return st.Err()
}

// selfSigned writes a self-signed certificate for clients and servers on 127.0.0.1, which is
// also its own authority.
func selfSigned(t *testing.T, name string) (cert, key string) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{name}, Subject: pkix.Name{CommonName: name},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	write := func(name, kind string, bytes []byte) string {
		file := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: bytes}), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	return write("cert.pem", "CERTIFICATE", der), write("key.pem", "PRIVATE KEY", pkcs8)
}
