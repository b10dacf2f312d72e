package main

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// openAPI is the committed description of the REST API. The routes are read off it, so
// that what is described and what is taken are the same.
//
//go:embed gen/openapi.json
var openAPI []byte

type route struct {
	template string // e.g. /customer/jobs/{job_id}
	// By method; nil for a page of the gateway's own.
	operations map[string]*operation
}

type operation struct {
	ID         string `json:"operationId"`
	Parameters []parameter
	// Set if the operation takes a body.
	RequestBody *struct{} `json:"requestBody"`
}

type parameter struct {
	Name   string
	In     string
	Schema struct {
		Type string
		Enum []string
	}
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
	return all, nil
}

// match finds the route of a path, or nil. A parameter is one segment, never empty.
func (rs routes) match(u *url.URL) *route {
	// An encoded slash is a part of a segment, and none of ours has one. The library
	// would take it for a separator.
	if strings.Contains(strings.ToLower(u.RawPath), "%2f") {
		return nil
	}
	for _, r := range rs {
		if matches(r.template, u.Path) {
			return r
		}
	}
	return nil
}

func matches(template, path string) bool {
	for {
		wanted, templateRest, more := strings.Cut(template, "/")
		segment, pathRest, pathMore := strings.Cut(path, "/")
		if more != pathMore {
			return false
		}
		if strings.HasPrefix(wanted, "{") {
			if segment == "" {
				return false
			}
		} else if wanted != segment {
			return false
		}
		if !more {
			return true
		}
		template, path = templateRest, pathRest
	}
}
