package main

import (
	"context"
	"net/http"
	"net/url"
	"strings"
)

// noRoute is the route of all paths that match no other one. Its template is their label in metrics and the log.
var noRoute = &route{template: "none"}

// match says what a request asks for. Each request is matched once, and its context has the match.
type match struct {
	*route
	operation *operation // nil if the route does not allow the method
	variables map[string]string
	query     url.Values // set by checkQuery
}

// match returns the match of a request.
//
// A verb at the end of a path is a verb with every method: /customer/jobs/a:retry refers to the job
// "a". The job "a:retry" has the path /customer/jobs/a%3Aretry.
func (rt routeTable) match(r *http.Request) *match {
	found, variables := rt.find(r.URL.EscapedPath())
	return &match{route: found, operation: found.operations[r.Method], variables: variables}
}

// find returns the route of an encoded path, or noRoute, and the variables of the path.
func (rt routeTable) find(path string) (*route, map[string]string) {
	segments := strings.Split(path, "/")
	for _, r := range rt { // in the order of loadRoutes
		if variables, ok := r.match(segments); ok {
			return r, variables
		}
	}
	return noRoute, nil
}

// withoutSlash returns a path of the API without the slashes at its end, or "".
func (rt routeTable) withoutSlash(u *url.URL) string {
	path := strings.TrimRight(u.EscapedPath(), "/")
	if found, _ := rt.find(path); path == u.EscapedPath() || found == noRoute {
		return ""
	}
	return path
}

// match matches the encoded segments of a path.
func (r *route) match(segments []string) (variables map[string]string, ok bool) {
	if len(segments) != len(r.segments) {
		return nil, false
	}
	for i, pattern := range r.segments {
		name, value, ok := matchSegment(pattern, segments[i])
		if !ok {
			return nil, false
		}
		if name != "" {
			if variables == nil {
				variables = map[string]string{}
			}
			variables[name] = value
		}
	}
	return variables, true
}

// matchSegment matches one segment against a literal, a variable such as {job_id}, or a
// variable with a custom verb such as {job_id}:retry. It returns the decoded variable.
func matchSegment(pattern, segment string) (name, value string, ok bool) {
	variable, isVariable := strings.CutPrefix(pattern, "{")
	if !isVariable {
		literal, err := url.PathUnescape(segment)
		return "", "", err == nil && literal == pattern
	}
	name, verb, _ := strings.Cut(variable, "}")
	// Compare before decoding: %3A is a character of the ID and never starts a verb.
	if segment, ok = strings.CutSuffix(segment, verb); !ok {
		return "", "", false
	}
	value, err := url.PathUnescape(segment)
	// No ID is empty, and only device IDs may contain an encoded slash.
	return name, value, err == nil && value != "" && (name == "device_id" || !strings.Contains(value, "/"))
}

// path returns the path of the request with one encoding for each character.
func (m *match) path() string {
	path := m.template
	for name, value := range m.variables {
		path = strings.Replace(path, "{"+name+"}", escapeSegment(value), 1)
	}
	return path
}

// escapeSegment encodes an ID for a path. It also encodes colons, which could start a verb.
func escapeSegment(id string) string {
	return strings.ReplaceAll(url.PathEscape(id), ":", "%3A")
}

type matchKey struct{}

func withMatch(ctx context.Context, m *match) context.Context {
	return context.WithValue(ctx, matchKey{}, m)
}

// matchFromContext panics if ctx is not of a request.
func matchFromContext(ctx context.Context) *match { return ctx.Value(matchKey{}).(*match) }
