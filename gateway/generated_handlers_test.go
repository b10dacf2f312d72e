package main

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"path"
	"testing"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/grpc"
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
	routes, err := newRoutes(openAPI, map[string]runtime.HandlerFunc{}, upstream, discardLogger)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range routes {
		for method, op := range r.operations {
			if op.request == nil || op.ID == "WatchJob" {
				continue
			}
			upstream.method = ""
			request := httptest.NewRequest(method, "/", http.NoBody)
			op.handler(httptest.NewRecorder(), request, map[string]string{"job_id": "a", "device_id": "b", "stage": "1"})
			if want := string(op.request.Name()); upstream.method+"Request" != want {
				t.Errorf("%s %s calls %q with %s", method, r.template, upstream.method, want)
			}
		}
	}
}
