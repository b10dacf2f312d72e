package rest

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"path"
	"testing"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/grpc"

	"github.com/jobs-grpc/jobs-grpc/gateway/internal/gatewaytest"
)

// methodRecorder is a connection that records the method of a call.
type methodRecorder struct {
	grpc.ClientConnInterface // nil
	method                   string
}

func (r *methodRecorder) Invoke(_ context.Context, method string, _, _ any, _ ...grpc.CallOption) error {
	r.method = path.Base(method)
	return errors.New("recorded")
}

func TestRoutes_CallTheMethodOfTheOperation(t *testing.T) {
	upstream := &methodRecorder{}
	routes, err := NewRoutes(gatewaytest.OpenAPI(), map[string]runtime.HandlerFunc{}, upstream, gatewaytest.DiscardLogger)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range routes {
		for method, op := range r.Operations {
			if op.Request == nil || op.IsStream() {
				continue
			}
			upstream.method = ""
			request := httptest.NewRequest(method, "/", http.NoBody)
			op.Handler(httptest.NewRecorder(), request, map[string]string{"job_id": "a", "device_id": "b", "stage": "1", "webhook_id": "c"})
			if want := string(op.Request.Name()); upstream.method+"Request" != want {
				t.Errorf("%s %s calls %q with %s", method, r.Template, upstream.method, want)
			}
		}
	}
}
