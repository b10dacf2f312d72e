package headers

import (
	"crypto/rand"
	"net/http"
	"regexp"
	"slices"
)

var (
	requestIDPattern   = regexp.MustCompile(`^[\x21-\x7e]{1,128}$`)
	traceparentPattern = regexp.MustCompile(`^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$`)
)

// SetRequestID sets X-Request-Id on the request and on the response. It generates an ID if the
// client sent none, several or a malformed one.
func SetRequestID(w http.ResponseWriter, r *http.Request) (requestID string) {
	requestID = r.Header.Get("X-Request-Id")
	if len(r.Header.Values("X-Request-Id")) != 1 || !requestIDPattern.MatchString(requestID) {
		requestID = rand.Text()
	}
	r.Header.Set("X-Request-Id", requestID)
	w.Header().Set("X-Request-Id", requestID)
	return requestID
}

// SetTraceparent copies a valid traceparent to the response and removes a malformed or
// repeated one from the request. A tracestate that metadata can't carry is removed, too.
func SetTraceparent(w http.ResponseWriter, r *http.Request) {
	values := r.Header.Values("Traceparent")
	if len(values) == 1 && traceparentPattern.MatchString(values[0]) {
		w.Header().Set("Traceparent", values[0])
		if slices.ContainsFunc(r.Header.Values("Tracestate"), isNotPrintableASCII) {
			r.Header.Del("Tracestate")
		}
		return
	}
	r.Header.Del("Traceparent")
	r.Header.Del("Tracestate")
}
