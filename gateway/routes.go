package main

import (
	"cmp"
	_ "embed"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
)

// openAPI is the committed description of the REST API. The routes are read off it, so
// that what is described and what is taken are the same.
//
//go:embed gen/openapi.json
var openAPI []byte

const protoPackage = "fleet.jobs.v1"

type route struct {
	template string // e.g. /customer/jobs/{job_id}
	// By method; nil for a page of the gateway's own.
	operations map[string]*operation
}

type operation struct {
	ID         string `json:"operationId"`
	RPC        string `json:"x-rpc"` // if it is not the ID
	Parameters []parameter
	// Set if the operation takes a body.
	RequestBody *struct{} `json:"requestBody"`
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
	Items  *schema // of an array: a parameter that may be repeated
}

// request is what the operation takes: requests are named after their calls.
func (o *operation) request() protoreflect.MessageDescriptor {
	return messageNamed(cmp.Or(o.RPC, o.ID) + "Request")
}

func messageNamed(name string) protoreflect.MessageDescriptor {
	known, err := protoregistry.GlobalTypes.FindMessageByName(protoreflect.FullName(protoPackage + "." + name))
	if err != nil {
		panic(err) // generated code registers every message
	}
	return known.Descriptor()
}

// query finds a query parameter by name.
func (o *operation) query(name string) *parameter {
	for i, p := range o.Parameters {
		if p.In == "query" && p.Name == name {
			return &o.Parameters[i]
		}
	}
	return nil
}

func (r *route) takes(method string) bool {
	_, ok := r.operations[method]
	return ok
}

// allow is the Allow header's value.
func (r *route) allow() string {
	var methods []string
	for method := range r.operations {
		methods = append(methods, method)
	}
	slices.Sort(methods)
	return strings.Join(methods, ", ")
}

type routes []*route

// readRoutes reads the document, and adds the gateway's own pages.
func readRoutes(document []byte) (routes, error) {
	var parsed struct {
		Paths map[string]map[string]*operation
	}
	if err := json.Unmarshal(document, &parsed); err != nil {
		return nil, fmt.Errorf("openapi.json: %w", err)
	}
	var all routes
	for template, byMethod := range parsed.Paths {
		operations := map[string]*operation{}
		for method, o := range byMethod {
			operations[strings.ToUpper(method)] = o
		}
		all = append(all, &route{template, operations})
	}
	page := map[string]*operation{http.MethodGet: nil, http.MethodHead: nil}
	all = append(all,
		&route{"/healthz", map[string]*operation{http.MethodGet: nil}},
		&route{"/openapi.json", page},
		&route{"/docs", page},
		&route{"/docs/", page},
	)
	for _, path := range docsAssets() {
		all = append(all, &route{path, page})
	}
	// The document's paths come in no order, and answers must not depend on it.
	slices.SortFunc(all, func(a, b *route) int { return strings.Compare(a.template, b.template) })
	return all, nil
}
