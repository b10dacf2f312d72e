package main

import (
	"net/http"
	"net/url"
	"strings"
	"unicode/utf8"
)

// match returns the route of a path, or nil, and the path in the encoding that grpc-gateway
// expects.
//
// A verb at the end of a path is a verb with every method: /customer/jobs/a:retry refers to the job
// "a". The job "a:retry" has the path /customer/jobs/a%3Aretry.
func (rt routeTable) match(u *url.URL) (matched *route, rawPath string) {
	segments := strings.Split(u.EscapedPath(), "/")
	for _, r := range rt { // in the order of loadRoutes
		if path, ok := matchTemplate(r.template, segments); ok {
			return r, path
		}
	}
	return nil, ""
}

// matchWithoutSlash returns the path that matches a route after its slashes at the end are removed, or "".
func (rt routeTable) matchWithoutSlash(u *url.URL) string {
	path := strings.TrimRight(u.EscapedPath(), "/")
	if path == u.EscapedPath() {
		return ""
	}
	for _, r := range rt {
		if _, ok := matchTemplate(r.template, strings.Split(path, "/")); ok {
			return path
		}
	}
	return ""
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
	return escapeSegment(value) + verb, true
}

// escapeSegment encodes an ID for a path. It also encodes colons, which could start a verb.
func escapeSegment(id string) string {
	return strings.ReplaceAll(url.PathEscape(id), ":", "%3A")
}

// checkPath rejects a path that is not UTF-8, because protobuf strings must be UTF-8, and path
// parameters of the wrong type.
func checkPath(op *operation, template string, r *http.Request) *apiError {
	if !utf8.ValidString(r.URL.Path) {
		return malformedRequest("The path is not valid UTF-8")
	}
	for name, value := range pathVariables(template, r) {
		if e := checkValue(name, &op.parameter("path", name).Schema, value); e != nil {
			return e
		}
	}
	return nil
}

// pathVariables returns the decoded variables of a path that matches a template.
func pathVariables(template string, r *http.Request) map[string]string {
	variables := map[string]string{}
	segments := strings.Split(r.URL.EscapedPath(), "/")
	for i, pattern := range strings.Split(template, "/") {
		if name, ok := strings.CutPrefix(pattern, "{"); ok {
			name, verb, _ := strings.Cut(name, "}")
			variables[name], _ = url.PathUnescape(strings.TrimSuffix(segments[i], verb)) // match has decoded it already
		}
	}
	return variables
}
