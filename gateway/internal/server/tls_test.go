package server

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	jobsv1 "github.com/jobs-grpc/jobs-grpc/gateway/gen/fleet/jobs/v1"
	"github.com/jobs-grpc/jobs-grpc/gateway/internal/gatewaytest"
)

// listenEvents is a log writer that sends the address of each "listening" event.
type listenEvents struct {
	addresses chan string
}

func (e *listenEvents) Write(line []byte) (int, error) {
	var event struct{ Msg, Address string }
	if json.Unmarshal(line, &event) == nil && event.Msg == "listening" {
		e.addresses <- event.Address
	}
	return len(line), nil
}

func TestRun_UsesMutualTLS_WithClientAndUpstream(t *testing.T) {
	cert, key := gatewaytest.SelfSigned(t, "proxy")
	untrustedCert, untrustedKey := gatewaytest.SelfSigned(t, "proxy")
	authorities := x509.NewCertPool()
	pem, err := os.ReadFile(cert)
	if err != nil || !authorities.AppendCertsFromPEM(pem) {
		t.Fatal(err)
	}
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	upstream := gatewaytest.ServeStub(t, &gatewaytest.Stub{Job: &jobsv1.Job{JobId: "a"}}, grpc.Creds(credentials.NewTLS(&tls.Config{
		Certificates: []tls.Certificate{pair}, ClientCAs: authorities, ClientAuth: tls.RequireAndVerifyClientCert,
	})))
	env := map[string]string{
		"JOBS_GATEWAY_UPSTREAM": upstream, "JOBS_GATEWAY_LISTEN": "0.0.0.0:0",
		"JOBS_GATEWAY_TLS_CERT": cert, "JOBS_GATEWAY_TLS_KEY": key, "JOBS_GATEWAY_TLS_CLIENT_CA": cert,
		"JOBS_GATEWAY_TRUSTED_PEERS": "proxy",
		"JOBS_GATEWAY_UPSTREAM_CA":   cert, "JOBS_GATEWAY_UPSTREAM_CERT": cert, "JOBS_GATEWAY_UPSTREAM_KEY": key,
	}
	config := gatewaytest.LoadTestConfig(t, env)
	log := &listenEvents{addresses: make(chan string, 1)}
	ctx, stop := context.WithCancel(context.Background())
	stopped := make(chan error)
	go func() { stopped <- Run(ctx, gatewaytest.OpenAPI(), config, slog.New(slog.NewJSONHandler(log, nil))) }()
	_, port, _ := net.SplitHostPort(<-log.addresses)

	clientTLS := func(cert, key string) *tls.Config {
		pair, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			t.Fatal(err)
		}
		return &tls.Config{RootCAs: authorities, Certificates: []tls.Certificate{pair}}
	}
	transport := &http.Transport{TLSClientConfig: clientTLS(cert, key), ForceAttemptHTTP2: true}
	request, _ := http.NewRequest(http.MethodGet, "https://127.0.0.1:"+port+"/customer/jobs/a", nil)
	request.Header.Set("X-Tenant-Id", "acme")
	response, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil || response.StatusCode != http.StatusOK || response.ProtoMajor != 2 {
		t.Errorf("with a trusted certificate: %v %v", response, err)
	}
	transport.CloseIdleConnections()
	// In TLS 1.3 a client sees the rejection only when it reads, so a bare TLS
	// connection always fails in the same way; an HTTP client might fail when it writes.
	conn, err := tls.Dial("tcp", "127.0.0.1:"+port, clientTLS(untrustedCert, untrustedKey))
	if err == nil {
		_, err = conn.Read(make([]byte, 1))
		conn.Close()
	}
	if err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("with an untrusted certificate: %v", err)
	}
	env["JOBS_GATEWAY_LISTEN"] = "0.0.0.0:" + port
	if err := CheckHealth(ctx, gatewaytest.LoadTestConfig(t, env)); err != nil {
		t.Error("health:", err)
	}
	stop()
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

func TestUpstreamTLS_RejectsServer_WhenAuthorityNotTrusted(t *testing.T) {
	cert, key := gatewaytest.SelfSigned(t, "proxy")
	other, _ := gatewaytest.SelfSigned(t, "other")
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	s := &gatewaytest.Stub{Job: &jobsv1.Job{}}
	upstream := gatewaytest.ServeStub(t, s, grpc.Creds(credentials.NewServerTLSFromCert(&pair)))
	gateway := newTestGateway(t, map[string]string{"JOBS_GATEWAY_UPSTREAM": upstream, "JOBS_GATEWAY_UPSTREAM_CA": other})

	response := get(gateway, "/customer/jobs/a", http.Header{"X-Tenant-Id": {"acme"}})

	if response.StatusCode != http.StatusServiceUnavailable || s.Metadata != nil {
		t.Errorf("%d, called with %v", response.StatusCode, s.Metadata)
	}
}
