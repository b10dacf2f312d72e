package server

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
