package routes

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// NoRoute is the route of all paths that match no other one. Its template is their label in metrics and the log.
var NoRoute = &Route{Template: "none"}

// Match says what a request asks for. Each request is matched once, and its context has the match.
type Match struct {
	*Route
	Operation *Operation // nil if the route does not allow the method
	Variables map[string]string
	Query     url.Values // set by rest.CheckRequest
}

// Match returns the match of a request.
//
// A verb at the end of a path is a verb with every method: /customer/jobs/a:retry refers to the job
// "a". The job "a:retry" has the path /customer/jobs/a%3Aretry.
func (rt Table) Match(r *http.Request) *Match {
	found, variables := rt.find(r.URL.EscapedPath())
	return &Match{Route: found, Operation: found.Operations[r.Method], Variables: variables}
}

// find returns the route of an encoded path, or NoRoute, and the variables of the path.
func (rt Table) find(path string) (*Route, map[string]string) {
	segments, variables := strings.Split(path, "/"), map[string]string{}
	for _, r := range rt { // in the order of Load
		if r.match(segments, variables) {
			return r, variables
		}
	}
	return NoRoute, nil
}

// WithoutSlash returns a path of the API without the slashes at its end, or "".
func (rt Table) WithoutSlash(u *url.URL) string {
	path := strings.TrimRight(u.EscapedPath(), "/")
	if found, _ := rt.find(path); path == u.EscapedPath() || found == NoRoute {
		return ""
	}
	return path
}

// IsHealthCheck reports whether the route is that of health checks.
func (r *Route) IsHealthCheck() bool { return r.Template == "/healthz" }

// match matches the encoded segments of a path, and sets the variables.
func (r *Route) match(segments []string, variables map[string]string) bool {
	clear(variables)
	return slices.EqualFunc(r.segments, segments, func(pattern, segment string) bool {
		return matchSegment(pattern, segment, variables)
	})
}

// matchSegment matches one segment against a literal, a variable such as {job_id}, or a
// variable with a custom verb such as {job_id}:retry. It sets the decoded variable.
func matchSegment(pattern, segment string, variables map[string]string) bool {
	variable, isVariable := strings.CutPrefix(pattern, "{")
	if !isVariable {
		literal, err := url.PathUnescape(segment)
		return err == nil && literal == pattern
	}
	name, verb, _ := strings.Cut(variable, "}")
	// Compare before decoding: %3A is a character of the ID and never starts a verb.
	segment, ok := strings.CutSuffix(segment, verb)
	value, err := url.PathUnescape(segment)
	variables[name] = value
	// No ID is empty, and only device IDs may contain an encoded slash.
	return ok && err == nil && value != "" && (name == "device_id" || !strings.Contains(value, "/"))
}

// Path returns the path of the request with one encoding for each character.
func (m *Match) Path() string {
	path := m.Template
	for name, value := range m.Variables {
		path = strings.Replace(path, "{"+name+"}", EscapeSegment(value), 1)
	}
	return path
}

// EscapeSegment encodes an ID for a path. It also encodes colons, which could start a verb.
func EscapeSegment(id string) string {
	return strings.ReplaceAll(url.PathEscape(id), ":", "%3A")
}

type matchKey struct{}

// WithMatch returns the context of a request with this match.
func WithMatch(ctx context.Context, m *Match) context.Context {
	return context.WithValue(ctx, matchKey{}, m)
}

// MatchFromContext panics if ctx is not of a request.
func MatchFromContext(ctx context.Context) *Match { return ctx.Value(matchKey{}).(*Match) }
