package server

import (
	"net"
	"net/http/httptest"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"

	"github.com/jobs-grpc/jobs-grpc/gateway/internal/gatewaytest"
	"github.com/jobs-grpc/jobs-grpc/gateway/internal/observability"
	"github.com/jobs-grpc/jobs-grpc/gateway/internal/upstream"
)

func TestCheckHealth_FollowsUpstream(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	statuses := health.NewServer()
	server := grpc.NewServer()
	grpc_health_v1.RegisterHealthServer(server, statuses)
	go server.Serve(listener)
	t.Cleanup(server.Stop)

	config := gatewaytest.LoadTestConfig(t, map[string]string{"JOBS_GATEWAY_UPSTREAM": listener.Addr().String()})
	upstream, err := upstream.Dial(config, gatewaytest.DiscardLogger)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { upstream.Close() })
	handler, _, err := newHandlers(nil, gatewaytest.OpenAPI(), config, upstream, observability.NewMetrics(), nil, gatewaytest.DiscardLogger)
	if err != nil {
		t.Fatal(err)
	}
	gateway := httptest.NewServer(handler)
	t.Cleanup(gateway.Close)
	config.Listen = gateway.Listener.Addr().String()

	if err := CheckHealth(t.Context(), config); err != nil {
		t.Error(err)
	}
	statuses.SetServingStatus("", grpc_health_v1.HealthCheckResponse_NOT_SERVING)
	if err := CheckHealth(t.Context(), config); err == nil || !strings.Contains(err.Error(), "503") {
		t.Errorf("while the upstream does not serve: %v", err)
	}
	gateway.Close()
	if err := CheckHealth(t.Context(), config); err == nil {
		t.Error("no error although nothing listens")
	}
}
