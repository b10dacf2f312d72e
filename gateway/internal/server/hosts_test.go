package server

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/jobs-grpc/jobs-grpc/gateway/internal/apierror"
	"github.com/jobs-grpc/jobs-grpc/gateway/internal/gatewaytest"
	"github.com/jobs-grpc/jobs-grpc/gateway/internal/observability"
)

func TestAllowedHosts_RejectOtherHosts(t *testing.T) {
	for _, c := range []struct {
		listen, setting string
		host            string
		allowed         bool
	}{
		{"127.0.0.1:8080", "", "localhost", true},
		{"127.0.0.1:8080", "", "LOCALHOST:8080", true},
		{"127.0.0.1:8080", "", "127.0.0.1:9", true},
		{"127.0.0.1:8080", "", "127.0.0.1", true},
		{"127.0.0.1:8080", "", "[::1]:8080", true},
		{"127.0.0.1:8080", "", "[::1]", true},
		{"127.0.0.1:8080", "", "", true},
		{"[::1]:8080", "", "evil.example:8080", false},
		{"localhost:8080", "", "evil.example", false},
		{"127.0.0.1:8080", "", "localhost.evil.example", false},
		{"127.0.0.1:8080", "", "127.0.0.1.evil.example:8080", false},
		{"127.0.0.1:8080", "", "127.0.0.1@evil.example", false},
		{"127.0.0.1:8080", "", "10.0.0.1", false},
		{"127.0.0.1:8080", "", "0.0.0.0:8080", false},
		{"127.0.0.1:8080", "api.example, 10.0.0.1", "API.example:443", true},
		{"127.0.0.1:8080", "api.example, 10.0.0.1", "10.0.0.1", true},
		{"127.0.0.1:8080", "api.example, 10.0.0.1", "localhost", true},
		{"127.0.0.1:8080", "api.example, 10.0.0.1", "evil.example", false},
		{"127.0.0.1:8080", "*", "evil.example", true},
		{"0.0.0.0:8080", "*", "evil.example", true},
		{"0.0.0.0:8080", "api.example", "api.example:8080", true},
		{"0.0.0.0:8080", "api.example", "evil.example", false},
	} {
		gateway := newTestGateway(t, map[string]string{
			"JOBS_GATEWAY_LISTEN": c.listen, "JOBS_GATEWAY_ALLOWED_HOSTS": c.setting,
			"JOBS_GATEWAY_INSECURE_METADATA": "true", "JOBS_GATEWAY_UPSTREAM": gatewaytest.ServeStub(t, &gatewaytest.Stub{}),
			"JOBS_GATEWAY_CORS_ORIGINS": "https://ops.example",
		})
		preflight := http.Header{"Origin": {"https://ops.example"}, "Access-Control-Request-Method": {"GET"}}
		for _, request := range []*http.Request{
			httptest.NewRequest("GET", "/healthz", nil),
			httptest.NewRequest("GET", "/openapi.json", nil),
			httptest.NewRequest("GET", "/customer/jobs", nil),
			{Method: "OPTIONS", URL: httptest.NewRequest("GET", "/customer/jobs", nil).URL, Header: preflight},
		} {
			request.Host = c.host
			recorder := httptest.NewRecorder()
			gateway.ServeHTTP(recorder, request)
			want := c.allowed || request.URL.Path == "/healthz" && strings.HasPrefix(c.listen, "0.0.0.0")
			if allowed := recorder.Code != http.StatusForbidden; allowed != want {
				t.Errorf("%s %s with Host %q, listen %s, allowed %q: %d", request.Method, request.URL, c.host, c.listen, c.setting, recorder.Code)
			}
			var e apierror.Error
			if !want && (json.Unmarshal(recorder.Body.Bytes(), &e) != nil || e.Reason != "HOST_NOT_ALLOWED") {
				t.Errorf("body %s", recorder.Body)
			}
		}
	}
}

// Prometheus scrapes each pod by its address, and the API has other names.
func TestMetrics_IgnoreAllowedHosts(t *testing.T) {
	for _, c := range []struct {
		listen, host string
		status       int
	}{
		{"0.0.0.0:9090", "10.1.2.3:9090", http.StatusOK},
		{"0.0.0.0:9090", "gateway:9090", http.StatusOK},
		{"127.0.0.1:9090", "localhost:9090", http.StatusOK},
		{"127.0.0.1:9090", "evil.example:9090", http.StatusForbidden},
		{"127.0.0.1:9090", "api.example:9090", http.StatusForbidden},
	} {
		config := gatewaytest.LoadTestConfig(t, map[string]string{
			"JOBS_GATEWAY_METRICS_LISTEN": c.listen, "JOBS_GATEWAY_ALLOWED_HOSTS": "api.example",
		})
		request := httptest.NewRequest("GET", "/metrics", nil)
		request.Host = c.host
		recorder := httptest.NewRecorder()
		newMetricsHandler(config, observability.NewMetrics()).ServeHTTP(recorder, request)
		if recorder.Code != c.status {
			t.Errorf("Host %s, listen %s: %d, want %d", c.host, c.listen, recorder.Code, c.status)
		}
	}
}
