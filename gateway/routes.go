package main

import (
	"cmp"
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
)

// openAPI is the generated OpenAPI document. The route table is built from it, so the gateway
// accepts exactly the paths, methods and query parameters that the document describes.
//
//go:embed gen/openapi.json
var openAPI []byte

// route is one path of the API with its operations.
type route struct {
	template string // such as /customer/jobs/{job_id}
	// By method. The operation is nil on routes without an RPC, such as /docs.
	operations map[string]*operation
}

// operation is one method of a path in the OpenAPI document.
type operation struct {
	ID          string `json:"operationId"`
	RPC         string `json:"x-rpc"` // set if it differs from ID
	Parameters  []parameter
	RequestBody *struct{} `json:"requestBody"` // nil if the operation has no body
}

type parameter struct {
	Name   string
	In     string
	Schema schema
}

type schema struct {
	Type   string
	Format string
	Enum   []string
	Items  *schema // set for arrays: the parameter may be repeated
}

// requestDescriptor returns the request message of the RPC.
func (o *operation) requestDescriptor() protoreflect.MessageDescriptor {
	return messageDescriptor(cmp.Or(o.RPC, o.ID) + "Request")
}

// parameter returns the parameter with this name in the path or the query, or nil.
func (o *operation) parameter(in, name string) *parameter {
	for i, p := range o.Parameters {
		if p.In == in && p.Name == name {
			return &o.Parameters[i]
		}
	}
	return nil
}

func (r *route) allows(method string) bool {
	_, ok := r.operations[method]
	return ok
}

// allowHeader returns the value of the Allow header.
func (r *route) allowHeader() string {
	var methods []string
	for method := range r.operations {
		methods = append(methods, method)
	}
	slices.Sort(methods)
	return strings.Join(methods, ", ")
}

type routeTable []*route

// loadRoutes returns the routes of an OpenAPI document and those of the gateway itself: /, /healthz,
// /openapi.json and /docs.
func loadRoutes(document []byte) (routeTable, error) {
	var parsed struct {
		Paths map[string]map[string]*operation
	}
	if err := json.Unmarshal(document, &parsed); err != nil {
		return nil, fmt.Errorf("openapi.json: %w", err)
	}
	var routes routeTable
	for template, byMethod := range parsed.Paths {
		operations := map[string]*operation{}
		for method, op := range byMethod {
			operations[strings.ToUpper(method)] = op
		}
		if get, ok := operations[http.MethodGet]; ok {
			operations[http.MethodHead] = get
		}
		routes = append(routes, &route{template, operations})
	}
	static := map[string]*operation{http.MethodGet: nil, http.MethodHead: nil}
	routes = append(routes,
		&route{"/healthz", static},
		&route{"/openapi.json", static},
	)
	for _, path := range pagePaths() {
		routes = append(routes, &route{path, static})
	}
	// Descending: {job_id}:retry comes before {job_id}, which matches the same paths.
	slices.SortFunc(routes, func(a, b *route) int { return strings.Compare(b.template, a.template) })
	return routes, nil
}

type routeKey struct{}

func withRoute(ctx context.Context, r *route) context.Context {
	return context.WithValue(ctx, routeKey{}, r)
}

// routeFromContext returns the route of a request, or nil if no route matches its path.
func routeFromContext(ctx context.Context) *route {
	r, _ := ctx.Value(routeKey{}).(*route)
	return r
}
