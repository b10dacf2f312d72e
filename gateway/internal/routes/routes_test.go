package routes

import (
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/jobs-grpc/jobs-grpc/gateway/internal/gatewaytest"
)

// A new method without a rule in rest_routes.yaml would be missing from the REST API.
func TestRoutes_CoverEveryUnaryMethod(t *testing.T) {
	routes, err := Load(gatewaytest.OpenAPI(), nil)
	if err != nil {
		t.Fatal(err)
	}
	served := map[protoreflect.FullName]bool{}
	for _, r := range routes {
		for _, op := range r.Operations {
			served[op.Request.FullName()] = true
		}
	}
	for _, method := range gatewaytest.UnaryMethods() {
		if !served[method.Input().FullName()] {
			t.Errorf("no route for %s", method.FullName())
		}
	}
}

// Custom verbs use POST. If /customer/jobs/{job_id} allowed POST too, "a:retry" would be ambiguous.
func TestRoutes_DisallowPOST_WhenPathEndsInID(t *testing.T) {
	routes, err := Load(gatewaytest.OpenAPI(), nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range routes {
		if r.Template[len(r.Template)-1] == '}' && r.Operations["POST"] != nil {
			t.Errorf("%s allows POST", r.Template)
		}
	}
}
