package main

import (
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"
)

// A new method without a rule in jobs.gateway.yaml would be missing from the REST API.
func TestRoutes_CoverEveryUnaryMethod(t *testing.T) {
	routes, err := loadRoutes(openAPI, nil)
	if err != nil {
		t.Fatal(err)
	}
	served := map[protoreflect.FullName]bool{}
	for _, r := range routes {
		for _, op := range r.operations {
			served[op.request.FullName()] = true
		}
	}
	for _, method := range unaryMethods() {
		if !served[method.Input().FullName()] {
			t.Errorf("no route for %s", method.FullName())
		}
	}
}

// Custom verbs use POST. If /customer/jobs/{job_id} allowed POST too, "a:retry" would be ambiguous.
func TestRoutes_DisallowPOST_WhenPathEndsInID(t *testing.T) {
	routes, err := loadRoutes(openAPI, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range routes {
		if r.template[len(r.template)-1] == '}' && r.operations["POST"] != nil {
			t.Errorf("%s allows POST", r.template)
		}
	}
}
