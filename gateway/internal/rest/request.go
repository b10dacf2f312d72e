// Need: the OpenAPI document: known parameters, of the right type.

package rest

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

	"github.com/jobs-grpc/jobs-grpc/gateway/internal/apierror"
	"github.com/jobs-grpc/jobs-grpc/gateway/internal/config"
	"github.com/jobs-grpc/jobs-grpc/gateway/internal/headers"
	"github.com/jobs-grpc/jobs-grpc/gateway/internal/routes"
)

// CheckRequest rejects requests that grpc-gateway would accept although a part is unknown,
// repeated or dropped, or would reject without naming the field. It reads the body. The gRPC server validates the values.
func CheckRequest(m *routes.Match, w http.ResponseWriter, r *http.Request, config *config.Config) *apierror.Error {
	if e := cmp.Or(
		headers.CheckIdentityHeaders(r), headers.CheckBearerToken(r, config.RequireToken), headers.CheckHeaderSize(r),
		checkPath(m, r), checkQuery(m, r),
	); e != nil {
		return e
	}
	return readBody(m, w, r, config.MaxBodyBytes)
}

// checkPath rejects a path that is not UTF-8, because protobuf strings must be UTF-8, and path
// parameters of the wrong type.
func checkPath(m *routes.Match, r *http.Request) *apierror.Error {
	if !utf8.ValidString(r.URL.Path) {
		return apierror.MalformedRequest("The path is not valid UTF-8")
	}
	for name, value := range m.Variables {
		if e := checkValue(name, &m.Operation.Parameter("path", name).Schema, value); e != nil {
			return e
		}
	}
	return nil
}

// checkQuery parses the query, for the match and for the generated code. It rejects unknown and repeated
// parameters and values of the wrong type, and removes parameters with an empty value.
func checkQuery(m *routes.Match, r *http.Request) *apierror.Error {
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return apierror.MalformedRequest("The query has an invalid percent-encoding")
	}
	for name, values := range query {
		p := m.Operation.Parameter("query", name)
		switch {
		case !utf8.ValidString(name):
			return apierror.MalformedRequest("The query is not valid UTF-8")
		case p == nil:
			return apierror.InvalidField(apierror.Truncate(name), fmt.Sprintf("unknown parameter %q", apierror.Truncate(name)))
		case len(values) > 1 && p.Schema.Items == nil:
			return apierror.InvalidField(name, name+" is set more than once")
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
	if e := checkOneofs(m.Operation.Request, slices.Sorted(maps.Keys(query)), "at most one"); e != nil {
		return e
	}
	m.Query, r.Form = query, query
	return nil
}

// checkValue checks the type of a value in the query or the path. The gRPC server checks its range.
func checkValue(name string, s *routes.Schema, value string) *apierror.Error {
	if !utf8.ValidString(value) {
		return apierror.InvalidField(name, name+" is not valid UTF-8")
	}
	switch {
	case s.Type == "integer":
		return checkInteger(name, value, 32)
	case s.Format == "int64":
		return checkInteger(name, value, 64)
	case s.Type == "boolean" && value != "true" && value != "false":
		return apierror.InvalidField(name, name+" must be true or false")
	case s.Format == "date-time":
		if t, err := time.Parse(time.RFC3339, value); err != nil || !timestamppb.New(t).IsValid() {
			// An unencoded plus sign in a query means a space.
			return apierror.InvalidField(name, name+" must be an RFC 3339 time such as 2026-11-24T15:05:36Z; encode + as %2B")
		}
	case s.Enum != nil && !slices.Contains(s.Enum, value):
		return unknownEnumValue(name, value, s.Enum)
	}
	return nil
}

// checkInteger accepts integers as JSON writes them: without a plus sign and leading zeros.
func checkInteger(name, value string, bits int) *apierror.Error {
	if n, err := strconv.ParseInt(value, 10, bits); err != nil || strconv.FormatInt(n, 10) != value {
		return apierror.InvalidField(name, fmt.Sprintf("%s must be a %d-bit integer, without a plus sign and leading zeros", name, bits))
	}
	return nil
}
