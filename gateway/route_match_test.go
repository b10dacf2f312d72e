package main

import (
	"net/url"
	"testing"
)

func TestRouteTable_MatchesPathAndMethod(t *testing.T) {
	routes, err := loadRoutes(openAPI)
	if err != nil {
		t.Fatal(err)
	}
	const (
		job       = "/customer/jobs/{job_id}"
		execution = "/customer/jobs/{job_id}/executions/{device_id}"
	)
	for _, c := range []struct{ method, path, template, allow, rawPath string }{
		{"POST", "/customer/jobs/a:retry", job + ":retry", "POST", "/customer/jobs/a:retry"},
		{"GET", "/customer/jobs/a:retry", job, "DELETE, GET, PATCH", "/customer/jobs/a:retry"},
		{"DELETE", "/customer/jobs/a:retry", job, "DELETE, GET, PATCH", "/customer/jobs/a:retry"},
		{"POST", "/customer/jobs/a:retry:delete", job + ":delete", "POST", "/customer/jobs/a:retry:delete"},
		// No route allows these methods: Allow lists the methods of all matching routes.
		{"PUT", "/customer/jobs/a:retry", job, "DELETE, GET, PATCH, POST", "/customer/jobs/a:retry"},
		{"POST", "/customer/jobs/a%3Aretry", job, "DELETE, GET, PATCH", "/customer/jobs/a:retry"},
		{"POST", "/customer/jobs/:retry", job, "DELETE, GET, PATCH", "/customer/jobs/:retry"},
		{"POST", "/customer/jobs:retry", "", "", ""},
		// The path for grpc-gateway has one encoding for each character.
		{"GET", "/cust%6fmer/jobs/%61", job, "DELETE, GET, PATCH", "/customer/jobs/a"},
		{"POST", "/device/v1/jobs%3AstartNext", "/device/v1/jobs:startNext", "POST", "/device/v1/jobs:startNext"},
		// Only a device ID may contain an encoded slash.
		{"DELETE", "/customer/jobs/a/executions/b%2fc", execution, "DELETE", "/customer/jobs/a/executions/b%2Fc"},
		{"GET", "/customer/jobs/b%2fc", "", "", ""},
		{"GET", "/customer%2fjobs", "", "", ""},
		{"DELETE", "/customer/jobs/a/executions/", "", "", ""},
	} {
		u, err := url.Parse(c.path)
		if err != nil {
			t.Fatal(err)
		}
		matched, rawPath := routes.match(c.method, u)
		var template, allow string
		if matched != nil {
			template, allow = matched.template, matched.allowHeader()
		}
		if template != c.template || allow != c.allow || rawPath != c.rawPath {
			t.Errorf("%s %s: %q (%s) as %q, want %q (%s) as %q",
				c.method, c.path, template, allow, rawPath, c.template, c.allow, c.rawPath)
		}
	}
}
