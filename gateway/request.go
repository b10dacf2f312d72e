package main

import (
	"cmp"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/types/known/timestamppb"
)

// checkRequest rejects requests that grpc-gateway would accept although a part is unknown,
// repeated or dropped, or would reject without naming the field. It reads the body. The gRPC server validates the values.
func checkRequest(m *match, w http.ResponseWriter, r *http.Request, config *Config) *apiError {
	if e := cmp.Or(checkIdentityHeaders(r), checkBearerToken(r, config.RequireToken), checkHeaderSize(r), checkPath(m, r)); e != nil {
		return e
	}
	if e := checkQuery(m, r); e != nil {
		return e
	}
	return readBody(m, w, r, config.MaxBodyBytes)
}

// checkPath rejects a path that is not UTF-8, because protobuf strings must be UTF-8, and path
// parameters of the wrong type.
func checkPath(m *match, r *http.Request) *apiError {
	if !utf8.ValidString(r.URL.Path) {
		return malformedRequest("The path is not valid UTF-8")
	}
	for name, value := range m.variables {
		if e := checkValue(name, &m.operation.parameter("path", name).Schema, value); e != nil {
			return e
		}
	}
	return nil
}

// checkQuery parses the query, for the match and for the generated code. It rejects unknown and repeated
// parameters and values of the wrong type, and removes parameters with an empty value.
func checkQuery(m *match, r *http.Request) *apiError {
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return malformedRequest("The query has an invalid percent-encoding")
	}
	for name, values := range query {
		p := m.operation.parameter("query", name)
		switch {
		case !utf8.ValidString(name):
			return malformedRequest("The query is not valid UTF-8")
		case p == nil:
			return invalidField(truncate(name), fmt.Sprintf("unknown parameter %q", truncate(name)))
		case len(values) > 1 && p.Schema.Items == nil:
			return invalidField(name, name+" is set more than once")
		}
		query[name] = slices.DeleteFunc(values, func(value string) bool { return value == "" })
		for _, value := range query[name] {
			if e := checkValue(name, cmp.Or(p.Schema.Items, &p.Schema), value); e != nil {
				return e
			}
		}
		if len(query[name]) == 0 {
			delete(query, name)
		}
	}
	if e := checkOneofs(m.operation.request, slices.Sorted(maps.Keys(query)), "at most one"); e != nil {
		return e
	}
	m.query, r.Form = query, query
	return nil
}

// checkValue checks the type of a value in the query or the path. The gRPC server checks its range.
func checkValue(name string, s *schema, value string) *apiError {
	if !utf8.ValidString(value) {
		return invalidField(name, name+" is not valid UTF-8")
	}
	switch {
	case s.Type == "integer":
		if _, err := strconv.ParseInt(value, 10, 32); err != nil {
			return invalidField(name, name+" must be a 32-bit integer")
		}
	case s.Type == "boolean" && value != "true" && value != "false":
		return invalidField(name, name+" must be true or false")
	case s.Format == "date-time":
		if t, err := time.Parse(time.RFC3339, value); err != nil || !timestamppb.New(t).IsValid() {
			// An unencoded plus sign in a query means a space.
			return invalidField(name, name+" must be an RFC 3339 time such as 2026-11-24T15:05:36Z; encode + as %2B")
		}
	case s.Enum != nil && !slices.Contains(s.Enum, value):
		return unknownEnumValue(name, value, s.Enum)
	}
	return nil
}
