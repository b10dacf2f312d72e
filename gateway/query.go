package main

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// checkRequest finds what the translation to protobuf would take too lightly, drop, or
// complain about without naming the field. What values must be is the service's to say.
func checkRequest(o *operation, w http.ResponseWriter, r *http.Request, maxBody int64) *problem {
	if !utf8.ValidString(r.URL.Path) {
		return malformed("The path is not UTF-8")
	}
	if p := checkQuery(o, r); p != nil {
		return p
	}
	if o.RequestBody == nil {
		r.Body = http.NoBody
		return nil
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
			return invalidField(clip(name), fmt.Sprintf("unknown parameter %q", clip(name)))
		case len(values) > 1 && p.Schema.Items == nil:
			return invalidField(name, name+" was given more than once")
		}
		query[name] = slices.DeleteFunc(values, func(value string) bool { return value == "" })
		for _, value := range query[name] {
			if p := checkValue(name, cmp.Or(p.Schema.Items, &p.Schema), value); p != nil {
				return p
			}
		}
		if len(query[name]) == 0 {
			delete(query, name)
		}
	}
	if p := checkOneofs(o.request(), slices.Sorted(maps.Keys(query)), "At most one"); p != nil {
		return p
	}
	r.URL.RawQuery = query.Encode()
	return nil
}

func checkValue(name string, s *schema, value string) *problem {
	if !utf8.ValidString(value) {
		return invalidField(name, name+" is not UTF-8")
	}
	switch {
	case s.Type == "integer":
		if _, err := strconv.ParseInt(value, 10, 32); err != nil {
			return invalidField(name, name+" must be a whole number of 32 bits")
		}
	case s.Type == "boolean" && value != "true" && value != "false":
		return invalidField(name, name+" must be true or false")
	case s.Format == "date-time":
		if t, err := time.Parse(time.RFC3339, value); err != nil || !timestamppb.New(t).IsValid() {
			// A plus sign that is not encoded is a space to a query.
			return invalidField(name, name+" must be a time like 2026-11-24T15:05:36Z; a + in it is written %2B")
		}
	case s.Enum != nil && !slices.Contains(s.Enum, value):
		return unknownName(name, value, s.Enum)
	}
	return nil
}

// checkBody reads the body, wholly, so that a client that goes away is noticed from here on,
// and leaves the message that it says in its place.
func checkBody(o *operation, w http.ResponseWriter, r *http.Request, maxBody int64) *problem {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		detail := fmt.Sprintf("The body is too large; at most %d bytes are taken", maxBody)
		return newProblem(codes.InvalidArgument, "BODY_TOO_LARGE", detail).withStatus(http.StatusRequestEntityTooLarge)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return newProblem(codes.DeadlineExceeded, "BODY_TOO_SLOW", "The body did not come in time").
			withStatus(http.StatusRequestTimeout)
	case err != nil:
		return malformed("The body could not be read")
	}
	if len(bytes.TrimSpace(body)) == 0 {
		r.Body = http.NoBody
		return nil
	}
	if p := checkMediaType(r); p != nil {
		return p
	}
	message, p := decode(o, body)
	r.Body = &decodedBody{message: message}
	return p
}

func checkMediaType(r *http.Request) *problem {
	if encoding := r.Header.Get("Content-Encoding"); encoding != "" && !strings.EqualFold(encoding, "identity") {
		return newProblem(codes.InvalidArgument, "UNSUPPORTED_MEDIA_TYPE", "The body must not be compressed: send it without Content-Encoding").
			withStatus(http.StatusUnsupportedMediaType)
	}
	value := r.Header.Get("Content-Type")
	if mediaType, _, err := mime.ParseMediaType(value); value == "" || err == nil && mediaType == "application/json" {
		return nil
	}
	return newProblem(codes.InvalidArgument, "UNSUPPORTED_MEDIA_TYPE", "The body must be JSON: send Content-Type: application/json").
		withStatus(http.StatusUnsupportedMediaType)
}
