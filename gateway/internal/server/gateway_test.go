package server

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/jobs-grpc/jobs-grpc/gateway/internal/gatewaytest"
	"github.com/jobs-grpc/jobs-grpc/gateway/internal/observability"
	"github.com/jobs-grpc/jobs-grpc/gateway/internal/upstream"
)

// newTestGateway returns the handler of a gateway with these environment variables.
func newTestGateway(tb testing.TB, env map[string]string) http.Handler {
	tb.Helper()
	config := gatewaytest.LoadTestConfig(tb, env)
	upstream, err := upstream.Dial(config, gatewaytest.DiscardLogger)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { upstream.Close() })
	handler, _, err := newHandlers(nil, gatewaytest.OpenAPI(), config, upstream, observability.NewMetrics(), nil, gatewaytest.DiscardLogger)
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
	request.Header.Set("Content-Type", "application/json")
	for name, values := range header {
		request.Header[http.CanonicalHeaderKey(name)] = values
	}
	recorder := httptest.NewRecorder()
	handler.ServeHTTP(recorder, request)
	return recorder.Result()
}
