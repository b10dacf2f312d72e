package routes

import (
	"net/http/httptest"
	"net/url"
	"testing"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"

	"github.com/jobs-grpc/jobs-grpc/gateway/internal/gatewaytest"
)

func TestRouteTable_MatchesPath(t *testing.T) {
	further := map[string]runtime.HandlerFunc{"/docs": nil, "/console/jobs": nil, "/console/{rest...}": nil}
	routes, err := Load(gatewaytest.OpenAPI(), further)
	if err != nil {
		t.Fatal(err)
	}
	const (
		job       = "/customer/jobs/{job_id}"
		execution = "/customer/jobs/{job_id}/executions/{device_id}"
	)
	for _, c := range []struct{ path, template, allow, canonical string }{
		{"/customer/jobs/a:retry", job + ":retry", "POST", "/customer/jobs/a:retry"},
		{"/customer/jobs/a:retry:delete", job + ":delete", "POST", "/customer/jobs/a%3Aretry:delete"},
		{"/customer/jobs/a:stop", job, "DELETE, GET, HEAD, PATCH", "/customer/jobs/a%3Astop"},
		// An encoded colon starts no verb, and no ID is empty.
		{"/customer/jobs/a%3Aretry", job, "DELETE, GET, HEAD, PATCH", "/customer/jobs/a%3Aretry"},
		{"/customer/jobs/:retry", job, "DELETE, GET, HEAD, PATCH", "/customer/jobs/%3Aretry"},
		{"/customer/jobs:retry", "none", "", "none"},
		// Links have one encoding for each character.
		{"/cust%6fmer/jobs/%61", job, "DELETE, GET, HEAD, PATCH", "/customer/jobs/a"},
		{"/device/v1/jobs%3AstartNext", "/device/v1/jobs:startNext", "POST", "/device/v1/jobs:startNext"},
		// Only a device ID may contain an encoded slash.
		{"/customer/jobs/a/executions/b%2fc", execution, "DELETE", "/customer/jobs/a/executions/b%2Fc"},
		{"/customer/jobs/b%2fc", "none", "", "none"},
		{"/customer%2fjobs", "none", "", "none"},
		{"/customer/jobs/a/executions/", "none", "", "none"},
		{"/console/jobs", "/console/jobs", "GET, HEAD", "/console/jobs"},
		{"/console/jobs/a/b/c", "/console/{rest...}", "GET, HEAD", "/console/{rest...}"},
		{"/console/jobs/", "none", "", "none"}, // is redirected
		{"/consoles", "none", "", "none"},
	} {
		m := routes.Match(httptest.NewRequest("GET", c.path, nil))
		if m.Template != c.template || m.AllowHeader() != c.allow || m.Path() != c.canonical {
			t.Errorf("%s: %q (%s) as %q, want %q (%s) as %q",
				c.path, m.Template, m.AllowHeader(), m.Path(), c.template, c.allow, c.canonical)
		}
	}
}

func TestWithoutSlash_ReturnsPathsOfTheAPIOnly(t *testing.T) {
	routes, err := Load(gatewaytest.OpenAPI(), map[string]runtime.HandlerFunc{"/docs": nil})
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"/customer/jobs/":              "/customer/jobs",
		"/customer/jobs//":             "/customer/jobs",
		"/customer/jobs/a%3Aretry/":    "/customer/jobs/a%3Aretry",
		"/docs/":                       "/docs",
		"/customer/jobs":               "",
		"/none/":                       "",
		"//evil.example/":              "",
		"//evil.example/customer/jobs": "",
	} {
		u, err := url.ParseRequestURI(path)
		if err != nil {
			t.Fatal(err)
		}
		if got := routes.WithoutSlash(u); got != want {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
	}
}
