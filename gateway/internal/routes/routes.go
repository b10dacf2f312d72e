// Package routes matches requests to the operations of the OpenAPI document.
package routes

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
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
		routes = append(routes, &Route{template, strings.Split(template, "/"), operations})
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
	// Descending: {job_id}:retry comes before {job_id}, which matches the same paths.
	slices.SortFunc(routes, func(a, b *Route) int { return strings.Compare(b.Template, a.Template) })
	return routes, nil
}

// MessageDescriptor returns the message of the fleet.jobs.v1 package with this name.
func MessageDescriptor(name string) protoreflect.MessageDescriptor {
	known, err := protoregistry.GlobalTypes.FindMessageByName(protoreflect.FullName("fleet.jobs.v1." + name))
	if err != nil {
		panic(err) // the generated code registers every message
	}
	return known.Descriptor()
}
