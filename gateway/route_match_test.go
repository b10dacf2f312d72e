package main

import (
	"net/url"
	"testing"
)

func TestRouteTable_MatchesPath(t *testing.T) {
	routes, err := loadRoutes(openAPI)
	if err != nil {
		t.Fatal(err)
	}
	const (
		job       = "/customer/jobs/{job_id}"
		execution = "/customer/jobs/{job_id}/executions/{device_id}"
	)
	for _, c := range []struct{ path, template, allow, rawPath string }{
		{"/customer/jobs/a:retry", job + ":retry", "POST", "/customer/jobs/a:retry"},
		{"/customer/jobs/a:retry:delete", job + ":delete", "POST", "/customer/jobs/a%3Aretry:delete"},
		{"/customer/jobs/a:stop", job, "DELETE, GET, HEAD, PATCH", "/customer/jobs/a%3Astop"},
		// An encoded colon starts no verb, and no ID is empty.
		{"/customer/jobs/a%3Aretry", job, "DELETE, GET, HEAD, PATCH", "/customer/jobs/a%3Aretry"},
		{"/customer/jobs/:retry", job, "DELETE, GET, HEAD, PATCH", "/customer/jobs/%3Aretry"},
		{"/customer/jobs:retry", "", "", ""},
		// The path for grpc-gateway has one encoding for each character.
		{"/cust%6fmer/jobs/%61", job, "DELETE, GET, HEAD, PATCH", "/customer/jobs/a"},
		{"/device/v1/jobs%3AstartNext", "/device/v1/jobs:startNext", "POST", "/device/v1/jobs:startNext"},
		// Only a device ID may contain an encoded slash.
		{"/customer/jobs/a/executions/b%2fc", execution, "DELETE", "/customer/jobs/a/executions/b%2Fc"},
		{"/customer/jobs/b%2fc", "", "", ""},
		{"/customer%2fjobs", "", "", ""},
		{"/customer/jobs/a/executions/", "", "", ""},
	} {
		u, err := url.Parse(c.path)
		if err != nil {
			t.Fatal(err)
		}
		matched, rawPath := routes.match(u)
		var template, allow string
		if matched != nil {
			template, allow = matched.template, matched.allowHeader()
		}
		if template != c.template || allow != c.allow || rawPath != c.rawPath {
			t.Errorf("%s: %q (%s) as %q, want %q (%s) as %q",
				c.path, template, allow, rawPath, c.template, c.allow, c.rawPath)
		}
	}
}

func TestMatchWithoutSlash_ReturnsPathsOfTheAPIOnly(t *testing.T) {
	routes, err := loadRoutes(openAPI)
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
		if got := routes.matchWithoutSlash(u); got != want {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
	}
}
