package main

import (
	"maps"
	"net/url"
	"strings"
	"unicode/utf8"
)

// match finds the route of a path, or nil, and how the library must be given the path.
//
// Two routes can fit: /customer/jobs/a:retry is the job "a:retry" to GET and DELETE, and "a"
// to be retried to POST. The method tells them apart. If none of them takes it, the answer
// is a route that takes what any of them does.
func (rs routes) match(method string, u *url.URL) (found *route, encoded string) {
	segments := strings.Split(u.EscapedPath(), "/")
	for _, r := range rs {
		path, fits := fill(r.template, segments)
		switch {
		case !fits:
		case r.takes(method):
			return r, path
		case found == nil:
			found, encoded = r, path
		default:
			operations := maps.Clone(found.operations)
			maps.Copy(operations, r.operations)
			found = &route{found.template, operations}
		}
	}
	return found, encoded
}

// fill matches the segments of a path, as they were sent, against a template, and writes the
// path anew with one encoding for each character: the library compares texts.
func fill(template string, segments []string) (encoded string, fits bool) {
	if strings.Count(template, "/")+1 != len(segments) {
		return "", false
	}
	filled := strings.Split(template, "/")
	for i, want := range filled {
		if filled[i], fits = fillSegment(want, segments[i]); !fits {
			return "", false
		}
	}
	return strings.Join(filled, "/"), true
}

func fillSegment(want, segment string) (encoded string, fits bool) {
	if !strings.HasPrefix(want, "{") {
		literal, err := url.PathUnescape(segment)
		return want, err == nil && literal == want
	}
	_, verb, hasVerb := strings.Cut(want, "}:")
	if hasVerb {
		// As it was sent: %3A is a character of an id and never begins a verb.
		if segment, fits = strings.CutSuffix(segment, ":"+verb); !fits {
			return "", false
		}
		verb = ":" + verb
	}
	value, err := url.PathUnescape(segment)
	if err != nil || value == "" {
		return "", false
	}
	// An encoded slash is a part of a device's id. Job ids have none.
	if want != "{device_id}" && strings.Contains(value, "/") {
		return "", false
	}
	if !utf8.ValidString(value) {
		return segment + verb, true // checkRequest refuses it
	}
	return url.PathEscape(value) + verb, true
}
