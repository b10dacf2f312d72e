package main

import (
	"maps"
	"net/http"
	"net/url"
	"strings"
	"unicode/utf8"
)

// match returns the route of a path, or nil, and the path in the encoding that grpc-gateway
// expects.
//
// Two routes can match one path: GET and DELETE of /customer/jobs/a:retry address the job
// "a:retry", and POST retries the job "a". The method decides. If neither route allows the
// method, match returns a route with the operations of both, for the Allow header.
func (rt routeTable) match(method string, u *url.URL) (matched *route, rawPath string) {
	segments := strings.Split(u.EscapedPath(), "/")
	for _, r := range rt {
		path, ok := matchTemplate(r.template, segments)
		switch {
		case !ok:
		case r.allows(method):
			return r, path
		case matched == nil:
			matched, rawPath = r, path
		default:
			operations := maps.Clone(matched.operations)
			maps.Copy(operations, r.operations)
			matched = &route{matched.template, operations}
		}
	}
	return matched, rawPath
}

// matchTemplate matches the encoded segments of a path against a template. It returns the path
// with one encoding for each character, because grpc-gateway compares literal segments as text.
func matchTemplate(template string, segments []string) (rawPath string, ok bool) {
	if strings.Count(template, "/")+1 != len(segments) {
		return "", false
	}
	result := strings.Split(template, "/")
	for i, pattern := range result {
		if result[i], ok = matchSegment(pattern, segments[i]); !ok {
			return "", false
		}
	}
	return strings.Join(result, "/"), true
}

// matchSegment matches one segment against a literal, a variable such as {job_id}, or a
// variable with a custom verb such as {job_id}:retry.
func matchSegment(pattern, segment string) (encoded string, ok bool) {
	if !strings.HasPrefix(pattern, "{") {
		literal, err := url.PathUnescape(segment)
		return pattern, err == nil && literal == pattern
	}
	_, verb, hasVerb := strings.Cut(pattern, "}:")
	if hasVerb {
		// Compare before unescaping: %3A is a character of the ID and never starts a verb.
		if segment, ok = strings.CutSuffix(segment, ":"+verb); !ok {
			return "", false
		}
		verb = ":" + verb
	}
	value, err := url.PathUnescape(segment)
	if err != nil || value == "" {
		return "", false
	}
	// Only device IDs may contain an encoded slash.
	if pattern != "{device_id}" && strings.Contains(value, "/") {
		return "", false
	}
	if !utf8.ValidString(value) {
		return segment + verb, true // checkPath rejects it with a proper error
	}
	return url.PathEscape(value) + verb, true
}

// checkPath rejects a path that is not UTF-8, because protobuf strings must be UTF-8.
func checkPath(r *http.Request) *apiError {
	if !utf8.ValidString(r.URL.Path) {
		return malformedRequest("The path is not valid UTF-8")
	}
	return nil
}
