// Package routes matches requests to the operations of the OpenAPI document.
//
// Need: the OpenAPI document, whose custom verbs and encoded IDs grpc-gateway would match by other rules.
package routes

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
)

// Route is one path of the API with its operations.
type Route struct {
	Template   string                // such as /customer/jobs/{job_id}
	segments   []string              // of the template
	prefix     []string              // of a template such as /console/{rest...}: the segments before the rest
	Operations map[string]*Operation // by method
}

// Operation is one method of a path. One without an RPC, such as of /docs, has only a handler.
type Operation struct {
	ID          string `json:"operationId"`
	RPC         string `json:"x-rpc"` // set if it differs from ID
	Parameters  []Parameter
	RequestBody *struct{} `json:"requestBody"` // nil if the operation has no body

	Request protoreflect.MessageDescriptor // of the RPC
	Handler runtime.HandlerFunc            // the variables of the path are its last argument
}

// Parameter is a parameter of an operation, in the path or the query.
type Parameter struct {
	Name   string
	In     string
	Schema Schema
}

// Schema says which values a parameter may have.
type Schema struct {
	Type   string
	Format string
	Enum   []string
	Items  *Schema // set for arrays: the parameter may be repeated
}

// Parameter returns the parameter with this name in the path or the query, or nil.
func (o *Operation) Parameter(in, name string) *Parameter {
	for i, p := range o.Parameters {
		if p.In == in && p.Name == name {
			return &o.Parameters[i]
		}
	}
	return nil
}

// IsStream reports whether internal/watch serves the operation, as Server-Sent Events.
func (o *Operation) IsStream() bool { return o.ID == "WatchJob" || o.ID == "WatchEvents" }

// AllowHeader returns the value of the Allow header.
func (r *Route) AllowHeader() string {
	return strings.Join(slices.Sorted(maps.Keys(r.Operations)), ", ")
}

// Table has the routes in the order in which they are tried.
type Table []*Route

// Load returns the routes of an OpenAPI document, and further ones that have no RPC. The operations of
// the document have no handler yet.
func Load(document []byte, further map[string]runtime.HandlerFunc) (Table, error) {
	var parsed struct {
		Paths map[string]map[string]*Operation
	}
	if err := json.Unmarshal(document, &parsed); err != nil {
		return nil, fmt.Errorf("openapi.json: %w", err)
	}
	var routes Table
	add := func(template string, byMethod map[string]*Operation) {
		operations := map[string]*Operation{}
		for method, op := range byMethod {
			operations[strings.ToUpper(method)] = op
		}
		if get, ok := operations[http.MethodGet]; ok {
			operations[http.MethodHead] = get // net/http drops the body of the response
		}
		route := &Route{Template: template, segments: strings.Split(template, "/"), Operations: operations}
		if before, ok := strings.CutSuffix(template, "/{rest...}"); ok {
			route.prefix = strings.Split(before, "/")
		}
		routes = append(routes, route)
	}
	for template, operations := range parsed.Paths {
		for _, op := range operations {
			op.Request = MessageDescriptor(cmp.Or(op.RPC, op.ID) + "Request")
		}
		add(template, operations)
	}
	for template, handler := range further {
		add(template, map[string]*Operation{http.MethodGet: {Handler: handler}})
	}
	// Descending: {job_id}:retry comes before {job_id}, which matches the same paths. Those with {rest...} come last.
	slices.SortFunc(routes, func(a, b *Route) int {
		return cmp.Or(len(a.prefix)-len(b.prefix), strings.Compare(b.Template, a.Template))
	})
	return routes, nil
}

// Below returns the routes whose templates begin with prefix.
func (rt Table) Below(prefix string) Table {
	var below Table
	for _, r := range rt {
		if strings.HasPrefix(r.Template, prefix) {
			below = append(below, r)
		}
	}
	return below
}

// MessageDescriptor returns the message of the fleet.jobs.v1 package with this name.
func MessageDescriptor(name string) protoreflect.MessageDescriptor {
	known, err := protoregistry.GlobalTypes.FindMessageByName(protoreflect.FullName("fleet.jobs.v1." + name))
	if err != nil {
		panic(err) // the generated code registers every message
	}
	return known.Descriptor()
}

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

// match matches the encoded segments of a path, and sets the variables. The rest of a path is one segment or more, and
// has no slash at its end.
func (r *Route) match(segments []string, variables map[string]string) bool {
	clear(variables)
	if n := len(r.prefix); n > 0 {
		return len(segments) > n && slices.Equal(r.prefix, segments[:n]) && segments[len(segments)-1] != ""
	}
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
