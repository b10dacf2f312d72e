package main

import (
	"net/http"
	"testing"
)

func TestCORS_AcceptsPagesOfTheSameHost_WhenAProxyAddsTheDefaultPort(t *testing.T) {
	handler := withCORS(nil, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {}))
	for _, c := range []struct {
		origin, host string
		want         int
	}{
		{"http://jobs.example.com", "jobs.example.com:80", http.StatusOK},
		{"https://jobs.example.com", "Jobs.example.com:443", http.StatusOK},
		{"http://[2001:db8::80]", "[2001:db8::80]:80", http.StatusOK},
		{"http://jobs.example.com:8080", "jobs.example.com:8080", http.StatusOK},
		{"http://jobs.example.com:8080", "jobs.example.com", http.StatusForbidden},
		{"https://jobs.example.com", "jobs.example.com:80", http.StatusForbidden},
		{"https://evil.example", "jobs.example.com:443", http.StatusForbidden},
		{"null", "jobs.example.com", http.StatusForbidden},
		{"null", "", http.StatusForbidden},
	} {
		hostOf := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			r.Host = c.host
			handler.ServeHTTP(w, r)
		})
		if got := get(hostOf, "/", http.Header{"Origin": {c.origin}}).StatusCode; got != c.want {
			t.Errorf("%s at %q: %d", c.origin, c.host, got)
		}
	}
}

func TestConfig_RejectsOriginsThatNoBrowserSends(t *testing.T) {
	for origin, want := range map[string]bool{
		"https://ops.example.com":      false,
		"https://ops.example.com:8443": false,
		"http://[::1]:3000":            false,
		"https://*.example.com":        true,
		"https://Ops.example.com":      true,
		"https://ops.example.com:443":  true,
		"http://ops.example.com:80":    true,
		"null":                         true,
	} {
		if got := isInvalidOrigin(origin); got != want {
			t.Errorf("%s: invalid %v", origin, got)
		}
	}
}
