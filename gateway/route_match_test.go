package main

import (
	"net/url"
	"testing"
)

func TestMatch(t *testing.T) {
	all, err := readRoutes(openAPI)
	if err != nil {
		t.Fatal(err)
	}
	const (
		job       = "/customer/jobs/{job_id}"
		execution = "/customer/jobs/{job_id}/executions/{device_id}"
	)
	for _, c := range []struct{ method, path, template, allow, encoded string }{
		{"POST", "/customer/jobs/a:retry", job + ":retry", "POST", "/customer/jobs/a:retry"},
		{"GET", "/customer/jobs/a:retry", job, "DELETE, GET", "/customer/jobs/a:retry"},
		{"DELETE", "/customer/jobs/a:retry", job, "DELETE, GET", "/customer/jobs/a:retry"},
		{"POST", "/customer/jobs/a:retry:delete", job + ":delete", "POST", "/customer/jobs/a:retry:delete"},
		// Nobody takes these: Allow says what any of the routes would.
		{"PUT", "/customer/jobs/a:retry", job, "DELETE, GET, POST", "/customer/jobs/a:retry"},
		{"POST", "/customer/jobs/a%3Aretry", job, "DELETE, GET", "/customer/jobs/a:retry"},
		{"POST", "/customer/jobs/:retry", job, "DELETE, GET", "/customer/jobs/:retry"},
		{"POST", "/customer/jobs:retry", "", "", ""},
		// One spelling for each path.
		{"GET", "/cust%6fmer/jobs/%61", job, "DELETE, GET", "/customer/jobs/a"},
		{"POST", "/device/v1/jobs%3AstartNext", "/device/v1/jobs:startNext", "POST", "/device/v1/jobs:startNext"},
		// A slash is a part of a device's id only.
		{"DELETE", "/customer/jobs/a/executions/b%2fc", execution, "DELETE", "/customer/jobs/a/executions/b%2Fc"},
		{"GET", "/customer/jobs/b%2fc", "", "", ""},
		{"GET", "/customer%2fjobs", "", "", ""},
		{"DELETE", "/customer/jobs/a/executions/", "", "", ""},
	} {
		u, err := url.Parse(c.path)
		if err != nil {
			t.Fatal(err)
		}
		found, encoded := all.match(c.method, u)
		var template, allow string
		if found != nil {
			template, allow = found.template, found.allow()
		}
		if template != c.template || allow != c.allow || encoded != c.encoded {
			t.Errorf("%s %s: %q (%s) as %q, want %q (%s) as %q",
				c.method, c.path, template, allow, encoded, c.template, c.allow, c.encoded)
		}
	}
}

// Custom verbs are POST; a POST to the path without one would make "a:retry" ambiguous.
func TestNoPathWithAnIdAtItsEndTakesPOST(t *testing.T) {
	all, err := readRoutes(openAPI)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range all {
		if r.template[len(r.template)-1] == '}' && r.takes("POST") {
			t.Errorf("%s takes POST", r.template)
		}
	}
}
