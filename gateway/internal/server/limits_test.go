package server

import (
	"bufio"
	"context"
	"crypto/tls"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"

	jobsv1 "github.com/jobs-grpc/jobs-grpc/gateway/gen/fleet/jobs/v1"
	"github.com/jobs-grpc/jobs-grpc/gateway/internal/gatewaytest"
	"github.com/jobs-grpc/jobs-grpc/gateway/internal/limits"
)

func TestRequestLimit_RejectsRequests_WhenTooManyAreInFlight(t *testing.T) {
	// One slot is for the address, and one for the tenant.
	s, address := gatewaytest.ServeBlockingStub(t)
	gateway := newTestGateway(t, map[string]string{
		"JOBS_GATEWAY_UPSTREAM": address, "JOBS_GATEWAY_MAX_REQUESTS_IN_FLIGHT": "2",
		"JOBS_GATEWAY_CORS_ORIGINS": "https://ops.example",
	})
	var calls sync.WaitGroup
	for range 2 {
		calls.Go(func() { get(gateway, "/customer/jobs/a", http.Header{"X-Tenant-Id": {"acme"}}) })
		<-s.Started
	}
	response := get(gateway, "/customer/jobs/a", http.Header{"X-Tenant-Id": {"acme"}, "Origin": {"https://ops.example"}})
	gatewaytest.CheckOverloaded(t, response, "JOBS_GATEWAY_MAX_REQUESTS_IN_FLIGHT is 2")
	if response.Header.Get("Access-Control-Allow-Origin") == "" || response.Header.Get("X-Request-Id") == "" {
		t.Errorf("headers %v", response.Header)
	}
	if got := get(gateway, "/healthz", nil).StatusCode; got != 200 {
		t.Errorf("/healthz: %d", got)
	}
	close(s.Release)
	calls.Wait()
	if got := get(gateway, "/openapi.json", nil).StatusCode; got != 200 {
		t.Errorf("after the calls: %d", got)
	}
}

// blockedBody is a body that arrives when end is closed.
type blockedBody struct{ started, end chan struct{} }

func (b *blockedBody) Read([]byte) (int, error) {
	b.started <- struct{}{}
	<-b.end
	return 0, io.EOF
}

func TestRequestLimit_LeavesSlotsToOthers_WhenOneClientSendsNoBodies(t *testing.T) {
	// 16 slots: an address has 2, and a tenant 8.
	s := gatewaytest.NewTokenStub()
	gateway := newTestGateway(t, map[string]string{
		"JOBS_GATEWAY_UPSTREAM": gatewaytest.ServeService(t, s), "JOBS_GATEWAY_MAX_REQUESTS_IN_FLIGHT": "16",
	})
	body := &blockedBody{make(chan struct{}), make(chan struct{})}
	post := func() *http.Response {
		request := httptest.NewRequest("POST", "/customer/jobs", body)
		request.Host, request.Header = "localhost", gatewaytest.Bearer("junk")
		recorder := httptest.NewRecorder()
		gateway.ServeHTTP(recorder, request)
		return recorder.Result()
	}
	var posts sync.WaitGroup
	for range 2 {
		posts.Go(func() { post() })
		<-body.started
	}
	if got := get(gateway, "/openapi.json", nil).StatusCode; got != 429 {
		t.Errorf("a page for the client: %d", got)
	}
	if got := post().StatusCode; got != 401 {
		t.Errorf("a third body of the client: %d", got)
	}
	if got := get(gateway, "/customer/jobs/a", gatewaytest.Bearer("acme/olivia")).StatusCode; got != 200 {
		t.Errorf("a known caller with the same address: %d", got)
	}
	if got := get(gateway, "/healthz", nil).StatusCode; got != 200 {
		t.Errorf("/healthz: %d", got)
	}
	close(body.end)
	posts.Wait()
	if got := get(gateway, "/openapi.json", nil).StatusCode; got != 200 {
		t.Errorf("after the bodies: %d", got)
	}
}

func TestRequestLimit_GivesOneTenantHalf(t *testing.T) {
	s, address := gatewaytest.ServeBlockingStub(t)
	gateway := newTestGateway(t, map[string]string{
		"JOBS_GATEWAY_UPSTREAM": address, "JOBS_GATEWAY_MAX_REQUESTS_IN_FLIGHT": "16",
	})
	call := func(tenant string) *http.Response {
		return get(gateway, "/customer/jobs/a", http.Header{"X-Tenant-Id": {tenant}})
	}
	var calls sync.WaitGroup
	for range 10 { // 2 of them before the gateway knows the caller
		calls.Go(func() { call("acme") })
		<-s.Started
	}
	gatewaytest.CheckOverloaded(t, call("acme"), "JOBS_GATEWAY_MAX_REQUESTS_IN_FLIGHT is 16")
	calls.Go(func() { call("other") })
	<-s.Started
	close(s.Release)
	calls.Wait()
}

func TestUpstream_SpreadsCallsOverConnections(t *testing.T) {
	s, address := gatewaytest.ServeBlockingStub(t)
	gateway := newTestGateway(t, map[string]string{
		"JOBS_GATEWAY_UPSTREAM": address, "JOBS_GATEWAY_UPSTREAM_CONNECTIONS": "3",
	})
	// More calls than one connection carries: each call has started before any of them ends.
	var calls sync.WaitGroup
	for n := range limits.StreamsPerConnection + 50 {
		tenant := strconv.Itoa(n)
		calls.Go(func() { get(gateway, "/customer/jobs/a", http.Header{"X-Tenant-Id": {tenant}}) })
	}
	for range limits.StreamsPerConnection + 50 {
		<-s.Started
	}
	if got := slices.Collect(maps.Keys(s.Peers)); len(got) != 3 {
		t.Errorf("connections: %v", got)
	}
	close(s.Release)
	calls.Wait()
}

// strictStub accepts only the token "good" and counts CreateJobs.
type strictStub struct {
	jobsv1.UnimplementedJobServiceServer
	created int
}

func (s *strictStub) GetCaller(ctx context.Context, _ *jobsv1.GetCallerRequest) (*jobsv1.GetCallerResponse, error) {
	if !strings.Contains(strings.Join(metadata.ValueFromIncomingContext(ctx, "authorization"), ","), "good") {
		return nil, gatewaytest.ServiceError(codes.Unauthenticated, "INVALID_TOKEN")
	}
	return &jobsv1.GetCallerResponse{TenantId: "acme"}, nil
}

func (s *strictStub) CreateJob(context.Context, *jobsv1.CreateJobRequest) (*jobsv1.CreateJobResponse, error) {
	s.created++
	return &jobsv1.CreateJobResponse{}, nil
}

// endlessBody counts the bytes that are read of it.
type endlessBody struct{ read int }

func (b *endlessBody) Read(p []byte) (int, error) {
	b.read += len(p)
	return copy(p, strings.Repeat(" ", len(p))), nil
}

func TestBody_IsNotReadFurther_WhenCallerIsRejected(t *testing.T) {
	gateway := newTestGateway(t, map[string]string{"JOBS_GATEWAY_UPSTREAM": gatewaytest.ServeService(t, &strictStub{})})
	body := &endlessBody{}
	request := httptest.NewRequest("POST", "/customer/jobs", body)
	request.Host = "localhost"
	request.Header.Set("Authorization", "Bearer junk")
	recorder := httptest.NewRecorder()
	gateway.ServeHTTP(recorder, request)
	if recorder.Code != 401 || !strings.Contains(recorder.Body.String(), "INVALID_TOKEN") || body.read > limits.FreeBytes {
		t.Errorf("%d %s after %d bytes", recorder.Code, recorder.Body, body.read)
	}
}

func TestBody_IsNotRead_WhenContentLengthIsTooLarge(t *testing.T) {
	gateway := newTestGateway(t, nil)
	body := &endlessBody{}
	request := httptest.NewRequest("POST", "/customer/jobs", body)
	request.Host = "localhost"
	request.ContentLength = 256<<10 + 1
	recorder := httptest.NewRecorder()
	gateway.ServeHTTP(recorder, request)
	if recorder.Code != 413 || body.read != 0 {
		t.Errorf("%d after %d bytes", recorder.Code, body.read)
	}
}

func TestBody_IsNotDecoded_WhenCallerIsRejected(t *testing.T) {
	s := &strictStub{}
	gateway := newTestGateway(t, map[string]string{"JOBS_GATEWAY_UPSTREAM": gatewaytest.ServeService(t, s)})
	// Small, but with many values, and invalid at the end: only decoding it finds the error.
	body := `{"document_params": {"a": [` + strings.Repeat("1,", 1000) + `}`
	for token, want := range map[string]int{"junk": 401, "good": 400} {
		response := send(gateway, "POST", "/customer/jobs", http.Header{"Authorization": {"Bearer " + token}}, body)
		if response.StatusCode != want {
			t.Errorf("%s: %d", token, response.StatusCode)
		}
	}
	large := `{"document_params": {"a": [` + strings.Repeat("1,", 50_000) + `1]}}`
	response := send(gateway, "POST", "/customer/jobs", http.Header{"Authorization": {"Bearer good"}}, large)
	if response.StatusCode != 201 || s.created != 1 {
		t.Errorf("%d, created %d", response.StatusCode, s.created)
	}
}

// lineChannel is a log writer that sends each line.
type lineChannel chan string

func (c lineChannel) Write(line []byte) (int, error) {
	c <- string(line)
	return len(line), nil
}

func TestServer_ClosesConnectionsWithoutRequestFirst_WhenTooManyAreOpen(t *testing.T) {
	log, started, release := make(lineChannel, 100), make(chan struct{}), make(chan struct{})
	config := gatewaytest.LoadTestConfig(t, map[string]string{"JOBS_GATEWAY_MAX_CONNECTIONS": "3"})
	server := newServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/blocked" {
			started <- struct{}{}
			<-release
		}
	}), config, slog.New(slog.NewTextHandler(log, nil)))
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go server.Serve(listener)
	defer server.Close()
	open := func(text string) net.Conn {
		connection, err := net.Dial("tcp", listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { connection.Close() })
		connection.SetDeadline(time.Now().Add(10 * time.Second))
		io.WriteString(connection, text)
		return connection
	}
	isOpen := func(connection net.Conn) bool {
		n, _ := connection.Read(make([]byte, 1))
		return n == 1
	}
	blocked := []net.Conn{open("GET /blocked HTTP/1.1\r\nHost: localhost\r\n\r\n")}
	<-started
	halfSent := open("GET / HTTP/1.1\r\n")
	// Each closes the one before it.
	for range 2 {
		blocked = append(blocked, open("GET /blocked HTTP/1.1\r\nHost: localhost\r\n\r\n"))
		<-started
	}
	if isOpen(halfSent) {
		t.Error("the connection without a request was not closed")
	}
	if isOpen(open("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")) {
		t.Error("a connection was accepted although all others have requests")
	}
	if line := <-log; !strings.Contains(line, "max-connections are open") {
		t.Errorf("log: %s", line)
	}
	close(release)
	for _, connection := range blocked {
		if !isOpen(connection) {
			t.Error("a connection with a request was closed")
		}
	}
	for !isOpen(open("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")) { // the others become idle a moment later
	}
}

func TestServer_LimitsStreamsAndWindows_OfHTTP2(t *testing.T) {
	server := httptest.NewUnstartedServer(nil)
	server.Config = newServer(http.NotFoundHandler(), gatewaytest.LoadTestConfig(t, nil), gatewaytest.DiscardLogger)
	server.EnableHTTP2 = true
	server.StartTLS()
	defer server.Close()
	connection, err := tls.Dial("tcp", server.Listener.Addr().String(), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
	if err != nil {
		t.Fatal(err)
	}
	defer connection.Close()
	io.WriteString(connection, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")
	header := make([]byte, 9)
	if _, err := io.ReadFull(connection, header); err != nil || header[3] != 4 {
		t.Fatalf("%v %v, want SETTINGS", header, err)
	}
	payload := make([]byte, int(header[1])<<8|int(header[2]))
	if _, err := io.ReadFull(connection, payload); err != nil {
		t.Fatal(err)
	}
	settings := map[byte]int{}
	for s := range slices.Chunk(payload, 6) {
		settings[s[1]] = int(s[2])<<24 | int(s[3])<<16 | int(s[4])<<8 | int(s[5])
	}
	if settings[3] != streamsPerClient || settings[4] != limits.FreeBytes {
		t.Errorf("MAX_CONCURRENT_STREAMS %d, INITIAL_WINDOW_SIZE %d", settings[3], settings[4])
	}
}

func TestServer_RespondsAndClosesConnection_WhenBodyIsNotComplete(t *testing.T) {
	gateway := newTestGateway(t, map[string]string{"JOBS_GATEWAY_REQUIRE_TOKEN": "true"})
	server := httptest.NewServer(gateway)
	defer server.Close()
	connection, err := net.Dial("tcp", server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer connection.Close()
	io.WriteString(connection, "POST /customer/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nGET /healthz HTTP/1.1\r\n")
	response, err := http.ReadResponse(bufio.NewReader(connection), nil)
	if err != nil || response.StatusCode != 401 || !response.Close {
		t.Errorf("%+v %v", response, err)
	}
}

func TestCallers_AreLookedUp_OnlyForRequestsThatHoldSomething(t *testing.T) {
	s := gatewaytest.NewTokenStub()
	gateway := newTestGateway(t, map[string]string{"JOBS_GATEWAY_UPSTREAM": gatewaytest.ServeService(t, s)})
	check := func(what string, response *http.Response, want int64) {
		t.Helper()
		if got := s.Lookups.Load(); got != want || response.StatusCode >= 300 {
			t.Errorf("%s: %d lookups, want %d; status %d", what, got, want, response.StatusCode)
		}
	}
	check("a small response", get(gateway, "/customer/jobs/a", gatewaytest.Bearer("acme/olivia")), 0)
	check("a small body", send(gateway, "POST", "/customer/jobs", gatewaytest.Bearer("acme/olivia"), `{"job_id": "a"}`), 0)
	large := `{"document_params": {"a": [` + strings.Repeat("1,", 50_000) + `1]}}`
	check("a large body", send(gateway, "POST", "/customer/jobs", gatewaytest.Bearer("acme/olivia"), large), 1)
	check("another one", send(gateway, "POST", "/customer/jobs", gatewaytest.Bearer("acme/olivia"), large), 1)
	s.Job = &jobsv1.Job{DocumentType: strings.Repeat("x", limits.FreeBytes)}
	check("a large response", get(gateway, "/customer/jobs/a", gatewaytest.Bearer("acme/amir")), 2)
	check("another one", get(gateway, "/customer/jobs/a", gatewaytest.Bearer("acme/amir")), 2)
}

func TestUpstream_CountsUnknownCallers_ByTheAddressThatATrustedProxyForwards(t *testing.T) {
	s, upstream := gatewaytest.ServeBlockingStub(t)
	gateway := newTestGateway(t, map[string]string{
		"JOBS_GATEWAY_UPSTREAM": upstream, "JOBS_GATEWAY_UPSTREAM_CONNECTIONS": "1", "JOBS_GATEWAY_TRUSTED_PROXIES": "192.0.2.1",
	})
	// Without a tenant, a lookup fails.
	call := func(address string) *http.Response {
		return get(gateway, "/customer/jobs/a", http.Header{"X-Forwarded-For": {address}})
	}
	var calls sync.WaitGroup
	for range limits.SubjectStreamsPerConnection {
		calls.Go(func() { call("198.51.100.1") })
		<-s.Started
	}
	if got := call("198.51.100.1").StatusCode; got != http.StatusUnauthorized {
		t.Errorf("the same address: status %d", got)
	}
	calls.Go(func() { call("198.51.100.2") })
	<-s.Started
	close(s.Release)
	calls.Wait()
}
