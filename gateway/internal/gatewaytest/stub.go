// Package gatewaytest has stub servers and helpers that the tests of several packages use.
package gatewaytest

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
	"github.com/jobs-grpc/jobs-grpc/gateway/internal/config"
)

// MetadataCallers answers GetCaller like a server without tokens.
type MetadataCallers struct {
	jobsv1.UnimplementedJobServiceServer
}

func (MetadataCallers) GetCaller(ctx context.Context, _ *jobsv1.GetCallerRequest) (*jobsv1.GetCallerResponse, error) {
	if tenants := metadata.ValueFromIncomingContext(ctx, "x-tenant-id"); len(tenants) == 1 {
		return &jobsv1.GetCallerResponse{TenantId: tenants[0]}, nil
	}
	return nil, ServiceError(codes.Unauthenticated, "TENANT_REQUIRED")
}

// Stub is a JobService with fixed responses. GetJob records its metadata and deadline.
type Stub struct {
	MetadataCallers
	Job *jobsv1.Job
	Err error // returned by every method

	Metadata    metadata.MD
	Deadline    time.Time
	HasDeadline bool
}

func (s *Stub) CreateJob(_ context.Context, r *jobsv1.CreateJobRequest) (*jobsv1.CreateJobResponse, error) {
	return &jobsv1.CreateJobResponse{JobId: r.JobId, Status: jobsv1.Job_IN_PROGRESS, ExecutionCount: 1}, s.Err
}

func (s *Stub) ListJobs(context.Context, *jobsv1.ListJobsRequest) (*jobsv1.ListJobsResponse, error) {
	jobs := make([]*jobsv1.Job, 50)
	for i := range jobs {
		jobs[i] = s.Job
	}
	return &jobsv1.ListJobsResponse{Jobs: jobs}, s.Err
}

func (s *Stub) GetJob(ctx context.Context, _ *jobsv1.GetJobRequest) (*jobsv1.GetJobResponse, error) {
	s.Metadata, _ = metadata.FromIncomingContext(ctx)
	s.Deadline, s.HasDeadline = ctx.Deadline()
	return &jobsv1.GetJobResponse{Job: s.Job}, s.Err
}

// ServeStub serves s on a free port until the test ends.
func ServeStub(tb testing.TB, s *Stub, options ...grpc.ServerOption) (address string) {
	tb.Helper()
	return ServeService(tb, s, options...)
}

// ServeService serves s and the health service on a free port until the test ends. If s is an EventService as well, it
// also serves that.
func ServeService(tb testing.TB, s jobsv1.JobServiceServer, options ...grpc.ServerOption) (address string) {
	tb.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	server := grpc.NewServer(options...)
	jobsv1.RegisterJobServiceServer(server, s)
	if events, ok := s.(jobsv1.EventServiceServer); ok {
		jobsv1.RegisterEventServiceServer(server, events)
	}
	grpc_health_v1.RegisterHealthServer(server, health.NewServer())
	go server.Serve(listener)
	tb.Cleanup(server.Stop)
	return listener.Addr().String()
}

func NewMessage(descriptor protoreflect.MessageDescriptor) proto.Message {
	known, err := protoregistry.GlobalTypes.FindMessageByName(descriptor.FullName())
	if err != nil {
		panic(err) // the generated code registers every message
	}
	return known.New().Interface()
}

// OpenAPI returns the committed OpenAPI document. The working directory must be that of a test in gateway/internal.
func OpenAPI() []byte {
	document, err := os.ReadFile("../../gen/openapi.json")
	if err != nil {
		panic(err)
	}
	return document
}

var DiscardLogger = slog.New(slog.DiscardHandler)

func LoadTestConfig(tb testing.TB, env map[string]string) *config.Config {
	tb.Helper()
	config, err := config.Load(nil, func(name string) (string, bool) { v, ok := env[name]; return v, ok })
	if err != nil {
		tb.Fatal(err)
	}
	return config
}

// TokenStub answers GetCaller like a server with tokens. The token "acme/olivia" is of the user olivia of
// the tenant acme, and a token without a slash is invalid.
type TokenStub struct {
	Stub
	Lookups atomic.Int64
	Expiry  time.Time     // of each token
	Blocked chan struct{} // if set, GetCaller waits until it is closed
}

func NewTokenStub() *TokenStub {
	return &TokenStub{Stub: Stub{Job: &jobsv1.Job{}}, Expiry: time.Now().Add(time.Hour)}
}

func (s *TokenStub) GetCaller(ctx context.Context, _ *jobsv1.GetCallerRequest) (*jobsv1.GetCallerResponse, error) {
	s.Lookups.Add(1)
	if s.Blocked != nil {
		<-s.Blocked
	}
	// The scheme is in any case, and any number of spaces separates it from the token.
	fields := strings.Fields(strings.Join(metadata.ValueFromIncomingContext(ctx, "authorization"), ","))
	tenant, user, ok := strings.Cut(fields[len(fields)-1], "/")
	if !ok {
		return nil, ServiceError(codes.Unauthenticated, "INVALID_TOKEN")
	}
	return &jobsv1.GetCallerResponse{TenantId: tenant, UserId: &user, CredentialExpiresAt: timestamppb.New(s.Expiry)}, nil
}

func (s *TokenStub) WatchJob(r *jobsv1.WatchJobRequest, stream jobsv1.JobService_WatchJobServer) error {
	if err := stream.Send(&jobsv1.WatchJobResponse{Job: &jobsv1.Job{JobId: r.JobId, Status: jobsv1.Job_IN_PROGRESS}}); err != nil {
		return err
	}
	<-stream.Context().Done()
	return nil
}

// Spellings are ten ways to send one token.
func Spellings(token, tenant string) (all []http.Header) {
	for _, scheme := range []string{"Bearer ", "bearer ", "BEARER ", "bEARER ", "Bearer  "} {
		header := http.Header{"Authorization": {scheme + token}}
		withTenant := header.Clone()
		withTenant.Set("X-Tenant-Id", tenant)
		all = append(all, header, withTenant)
	}
	return all
}

func Bearer(token string) http.Header { return http.Header{"Authorization": {"Bearer " + token}} }

// BlockingStub blocks every GetJob until release is closed, and records the connections.
type BlockingStub struct {
	MetadataCallers
	Started chan struct{}
	Release chan struct{}

	mu    sync.Mutex
	Peers map[string]bool
}

func (s *BlockingStub) GetJob(ctx context.Context, _ *jobsv1.GetJobRequest) (*jobsv1.GetJobResponse, error) {
	from, _ := peer.FromContext(ctx)
	s.mu.Lock()
	s.Peers[from.Addr.String()] = true
	s.mu.Unlock()
	s.Started <- struct{}{}
	<-s.Release
	return &jobsv1.GetJobResponse{Job: &jobsv1.Job{}}, nil
}

func ServeBlockingStub(t *testing.T) (*BlockingStub, string) {
	s := &BlockingStub{Started: make(chan struct{}), Release: make(chan struct{}), Peers: map[string]bool{}}
	return s, ServeService(t, s)
}

func CheckOverloaded(t *testing.T, response *http.Response, setting string) {
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

// UnaryMethods returns the unary methods of all services.
func UnaryMethods() (all []protoreflect.MethodDescriptor) {
	for _, file := range []protoreflect.FileDescriptor{
		jobsv1.File_fleet_jobs_v1_jobs_proto, jobsv1.File_fleet_jobs_v1_fleet_proto, jobsv1.File_fleet_jobs_v1_events_proto,
		jobsv1.File_fleet_jobs_v1_device_jobs_proto,
	} {
		methods := file.Services().Get(0).Methods()
		for i := range methods.Len() {
			if !methods.Get(i).IsStreamingServer() {
				all = append(all, methods.Get(i))
			}
		}
	}
	return all
}

func ServiceError(code codes.Code, reason string) error {
	st, _ := status.New(code, "text").WithDetails(&errdetails.ErrorInfo{Domain: "jobs-grpc", Reason: reason})
	return st.Err()
}

// SelfSigned writes a self-signed certificate for clients and servers on 127.0.0.1, which is
// also its own authority.
func SelfSigned(t *testing.T, name string) (cert, key string) {
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
