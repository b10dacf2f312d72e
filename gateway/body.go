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
	"google.golang.org/protobuf/reflect/protoreflect"
)

// decodedBody replaces the body of a request and carries the decoded message to the generated
// code. If the generated code decoded the body, its errors would not name the field.
type decodedBody struct {
	message proto.Message
}

func (*decodedBody) Read([]byte) (int, error) { return 0, io.EOF }
func (*decodedBody) Close() error             { return nil }

// NewDecoder returns a decoder that moves the message out of a decodedBody. io.EOF tells the
// generated code that there is no body.
func (m *jsonMarshaler) NewDecoder(r io.Reader) runtime.Decoder {
	return runtime.DecoderFunc(func(v any) error {
		body, ok := r.(*decodedBody)
		if !ok {
			return io.EOF
		}
		target := v.(proto.Message).ProtoReflect()
		body.message.ProtoReflect().Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
			target.Set(field, value) // without a copy of nested messages
			return true
		})
		body.message = nil
		return nil
	})
}

// bodyDecoder decodes request bodies within the limits of size and memory.
type bodyDecoder struct {
	maxBytes int64
}

// decode replaces the body of the request with a decodedBody, or with http.NoBody if the body is
// empty or the operation has none.
func (d *bodyDecoder) decode(op *operation, w http.ResponseWriter, r *http.Request) *apiError {
	if op.RequestBody == nil {
		r.Body = http.NoBody
		return nil
	}
	memory := requestMemoryFromContext(r.Context())
	body, reserved, e := d.read(w, r, memory)
	if e != nil {
		return e
	}
	if len(bytes.TrimSpace(body)) == 0 {
		r.Body = http.NoBody
		return nil
	}
	if e := checkContentType(r); e != nil {
		return e
	}
	size := decodedSize(body)
	if size > freeBytes && !reserved {
		if e := memory.learn(r.Context()); e != nil {
			return e
		}
		if e := memory.buffers.reserve(r.Context(), int64(len(body))*wireFactor); e != nil {
			return e
		}
	}
	if e := memory.messages.reserve(r.Context(), size); e != nil {
		return e
	}
	message, e := decodeMessage(op, body)
	r.Body = &decodedBody{message: message}
	return e
}

// read reads the body to the end: only then does net/http notice when the client disconnects.
// Before it holds more than freeBytes, it learns who the caller is and reserves memory.
func (d *bodyDecoder) read(w http.ResponseWriter, r *http.Request, memory *requestMemory) (body []byte, reserved bool, e *apiError) {
	if r.ContentLength > d.maxBytes {
		return nil, false, d.readError(&http.MaxBytesError{})
	}
	limited := http.MaxBytesReader(w, r.Body, d.maxBytes)
	body, err := io.ReadAll(io.LimitReader(limited, freeBytes))
	if err != nil || len(body) < freeBytes {
		return body, false, d.readError(err)
	}
	if e := memory.learn(r.Context()); e != nil {
		return nil, false, e
	}
	size := d.maxBytes // unknown in a chunked body
	if r.ContentLength > 0 {
		size = r.ContentLength
	}
	if e := memory.buffers.reserve(r.Context(), size*wireFactor); e != nil {
		return nil, true, e
	}
	// One byte more than the maximum makes limited return its error.
	all := append(make([]byte, 0, size+1), body...)
	n, err := io.ReadFull(limited, all[len(body):size+1])
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = nil
	}
	return all[:len(body)+n], true, d.readError(err)
}

// readError converts an error from reading a body.
func (d *bodyDecoder) readError(err error) *apiError {
	var tooLarge *http.MaxBytesError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &tooLarge):
		detail := fmt.Sprintf("The body is too large; the limit is %d bytes", d.maxBytes)
		return newAPIError(codes.InvalidArgument, "BODY_TOO_LARGE", detail).withStatus(http.StatusRequestEntityTooLarge)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return newAPIError(codes.DeadlineExceeded, "BODY_TOO_SLOW", "The body did not arrive in time").
			withStatus(http.StatusRequestTimeout)
	}
	return malformedRequest("The body could not be read")
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
