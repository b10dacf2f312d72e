package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"os"
	"strings"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
)

// decodedBody replaces the body of a request and carries the decoded message to the generated
// code. If the generated code decoded the body, its errors would not name the field.
type decodedBody struct {
	message proto.Message
}

func (*decodedBody) Read([]byte) (int, error) { return 0, io.EOF }
func (*decodedBody) Close() error             { return nil }

// NewDecoder returns a decoder that copies the message of a decodedBody. io.EOF tells the
// generated code that there is no body.
func (m *jsonMarshaler) NewDecoder(r io.Reader) runtime.Decoder {
	return runtime.DecoderFunc(func(v any) error {
		body, ok := r.(*decodedBody)
		if !ok {
			return io.EOF
		}
		proto.Merge(v.(proto.Message), body.message)
		return nil
	})
}

// decodeBody replaces the body of the request with a decodedBody, or with http.NoBody if the body
// is empty or the operation has none. It reads the body to the end: only then does net/http
// notice when the client disconnects.
func decodeBody(op *operation, w http.ResponseWriter, r *http.Request, maxBytes int64) *apiError {
	if op.RequestBody == nil {
		r.Body = http.NoBody
		return nil
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBytes))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		detail := fmt.Sprintf("The body is too large; the limit is %d bytes", maxBytes)
		return newAPIError(codes.InvalidArgument, "BODY_TOO_LARGE", detail).withStatus(http.StatusRequestEntityTooLarge)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return newAPIError(codes.DeadlineExceeded, "BODY_TOO_SLOW", "The body did not arrive in time").
			withStatus(http.StatusRequestTimeout)
	case err != nil:
		return malformedRequest("The body could not be read")
	}
	if len(bytes.TrimSpace(body)) == 0 {
		r.Body = http.NoBody
		return nil
	}
	if e := checkContentType(r); e != nil {
		return e
	}
	message, e := decodeMessage(op, body)
	r.Body = &decodedBody{message: message}
	return e
}

func checkContentType(r *http.Request) *apiError {
	if encoding := r.Header.Get("Content-Encoding"); encoding != "" && !strings.EqualFold(encoding, "identity") {
		return newAPIError(codes.InvalidArgument, "UNSUPPORTED_MEDIA_TYPE", "The body must not be compressed; send it without Content-Encoding").
			withStatus(http.StatusUnsupportedMediaType)
	}
	value := r.Header.Get("Content-Type")
	if mediaType, _, err := mime.ParseMediaType(value); value == "" || err == nil && mediaType == "application/json" {
		return nil
	}
	return newAPIError(codes.InvalidArgument, "UNSUPPORTED_MEDIA_TYPE", "The body must be JSON; send Content-Type: application/json").
		withStatus(http.StatusUnsupportedMediaType)
}
