package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"google.golang.org/grpc/codes"
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
		return fmt.Sprintf("%s %q is unknown; it must be one of %s", p.Name, clip(value), strings.Join(p.Schema.Enum, ", "))
	}
	return ""
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
