package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/reflect/protoreflect"
	jobsv1 "jobs-gateway/gen/fleet/jobs/v1"
)

// checkRequest finds what the translation to protobuf would take too lightly, drop, or
// complain about without naming the field. What values must be is the service's to say.
func checkRequest(o *operation, w http.ResponseWriter, r *http.Request, maxBody int64) *problem {
	if !utf8.ValidString(r.URL.Path) {
		return malformed("The path is not UTF-8")
	}
	if o.RequestBody == nil {
		r.Body = http.NoBody
		return checkQuery(o, r)
	}
	return checkBody(o, w, r, maxBody)
}

// checkQuery refuses parameters that are unknown or repeated and values of the wrong type.
// An empty value is none.
func checkQuery(o *operation, r *http.Request) *problem {
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return malformed("The query is not properly encoded")
	}
	for name, values := range query {
		p := o.query(name)
		switch {
		case !utf8.ValidString(name):
			return malformed("The query is not UTF-8")
		case p == nil:
			return invalidField(name, fmt.Sprintf("unknown parameter %q", name))
		case len(values) > 1:
			return invalidField(name, name+" was given more than once")
		case values[0] == "":
			delete(query, name)
		default:
			if wrong := checkValue(p, values[0]); wrong != "" {
				return invalidField(name, wrong)
			}
		}
	}
	r.URL.RawQuery = query.Encode()
	return nil
}

func checkValue(p *parameter, value string) string {
	if !utf8.ValidString(value) {
		return p.Name + " is not UTF-8"
	}
	if p.Schema.Type == "integer" {
		if _, err := strconv.ParseInt(value, 10, 32); err != nil {
			return p.Name + " must be a whole number of 32 bits"
		}
	}
	if p.Schema.Enum != nil && !slices.Contains(p.Schema.Enum, value) {
		return fmt.Sprintf("%s %q is unknown; it must be one of %s", p.Name, value, strings.Join(p.Schema.Enum, ", "))
	}
	return ""
}

// checkBody reads the body, wholly, so that a client that goes away is noticed from here on.
func checkBody(o *operation, w http.ResponseWriter, r *http.Request, maxBody int64) *problem {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		detail := fmt.Sprintf("The body is too large; at most %d bytes are taken", maxBody)
		return newProblem(codes.InvalidArgument, "BODY_TOO_LARGE", detail).withStatus(http.StatusRequestEntityTooLarge)
	case err != nil:
		return malformed("The body could not be read")
	}
	if len(bytes.TrimSpace(body)) > 0 {
		if p := checkMediaType(r); p != nil {
			return p
		}
		members, p := parseObject(body)
		if p != nil {
			return p
		}
		if p := checkMembers(o, r, members); p != nil {
			return p
		}
		if o.ID == "CreateJob" {
			if p := checkTargets(members); p != nil {
				return p
			}
			body = neverExpires(body, members)
		}
	} else {
		body = nil
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	r.ContentLength = int64(len(body))
	return nil
}

func checkMediaType(r *http.Request) *problem {
	value := r.Header.Get("Content-Type")
	if mediaType, _, err := mime.ParseMediaType(value); value == "" || err == nil && mediaType == "application/json" {
		return nil
	}
	return newProblem(codes.InvalidArgument, "UNSUPPORTED_MEDIA_TYPE", "The body must be JSON: send Content-Type: application/json").
		withStatus(http.StatusUnsupportedMediaType)
}

// checkMembers takes the request's fields by the names the document has, each once.
func checkMembers(o *operation, r *http.Request, members []member) *problem {
	service := jobsv1.File_fleet_jobs_v1_jobs_proto.Services().ByName("JobService")
	fields := service.Methods().ByName(protoreflect.Name(o.ID)).Input().Fields()
	seen := map[string]bool{}
	for _, m := range members {
		inPath := slices.ContainsFunc(o.Parameters, func(p parameter) bool { return p.In == "path" && p.Name == m.name })
		if inPath || fields.ByName(protoreflect.Name(m.name)) == nil {
			return invalidField(m.name, fmt.Sprintf("unknown field %q", m.name))
		}
		if seen[m.name] {
			return invalidField(m.name, m.name+" was given more than once")
		}
		seen[m.name] = true
	}
	return nil
}

// checkTargets names the targets that clash. One that is null is not given.
func checkTargets(members []member) *problem {
	targets := jobsv1.File_fleet_jobs_v1_jobs_proto.Messages().ByName("CreateJobRequest").Oneofs().ByName("target").Fields()
	var given []string
	var violations []violation
	for _, m := range members {
		if targets.ByName(protoreflect.Name(m.name)) != nil && !m.isNull() {
			given = append(given, m.name)
			violations = append(violations, violation{m.name, "only one target may be given"})
		}
	}
	if len(given) < 2 {
		return nil
	}
	detail := strings.Join(given, " and ") + " must not be given together: " +
		"Exactly one of target_device_id, target_group_id, target_all must be set"
	return newProblem(codes.InvalidArgument, "INVALID_FIELD", detail, violations...)
}

// neverExpires says "expires_in_hours": null in protobuf's terms, where null is "not given".
func neverExpires(body []byte, members []member) []byte {
	null := func(m member) bool { return m.name == "expires_in_hours" && m.isNull() }
	if !slices.ContainsFunc(members, null) {
		return body
	}
	said := map[string]json.RawMessage{}
	for _, m := range members {
		if !null(m) {
			said[m.name] = m.value
		}
	}
	said["never_expires"] = json.RawMessage("true")
	body, _ = json.Marshal(said) // of valid JSON: it can't fail
	return body
}
