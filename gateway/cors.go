package main

import (
	"net/http"
	"slices"
	"strings"
)

// withCORS adds the CORS headers for web pages of the given origins and answers their
// preflight requests. Without origins it returns next unchanged.
func withCORS(origins []string, next http.Handler) http.Handler {
	if len(origins) == 0 {
		return next
	}
	requestHeaders := strings.Join(append([]string{"content-type", "grpc-timeout", "last-event-id"}, allowedHeaders...), ", ")
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Add("Vary", "Origin")
		origin := r.Header.Get("Origin")
		if !slices.Contains(origins, origin) {
			next.ServeHTTP(w, r)
			return
		}
		w.Header().Set("Access-Control-Allow-Origin", origin)
		if r.Method == http.MethodOptions && r.Header.Get("Access-Control-Request-Method") != "" {
			w.Header().Set("Access-Control-Allow-Methods", "GET, POST, PATCH, DELETE")
			w.Header().Set("Access-Control-Allow-Headers", requestHeaders)
			w.Header().Set("Access-Control-Max-Age", "600")
			w.WriteHeader(http.StatusNoContent)
			return
		}
		w.Header().Set("Access-Control-Expose-Headers", "Link, Location, Retry-After, Traceparent, X-Next-Page-Token, X-Poll-After, X-Request-Id")
		next.ServeHTTP(w, r)
	})
}
