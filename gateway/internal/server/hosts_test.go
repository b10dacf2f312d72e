package server

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/jobs-grpc/jobs-grpc/gateway/internal/apierror"
	"github.com/jobs-grpc/jobs-grpc/gateway/internal/gatewaytest"
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
		{"0.0.0.0:8080", "", "evil.example", true},
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
			if allowed := recorder.Code != http.StatusForbidden; allowed != c.allowed {
				t.Errorf("%s %s with Host %q, listen %s, allowed %q: %d", request.Method, request.URL, c.host, c.listen, c.setting, recorder.Code)
			}
			var e apierror.Error
			if !c.allowed && (json.Unmarshal(recorder.Body.Bytes(), &e) != nil || e.Reason != "HOST_NOT_ALLOWED") {
				t.Errorf("body %s", recorder.Body)
			}
		}
	}
}
