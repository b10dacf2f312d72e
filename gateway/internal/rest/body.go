// Need: the limit max-body-bytes. Attacks: gateway-slow-bodies, gateway-half-sent-bodies, gateway-nested-bodies.

package rest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/jobs-grpc/jobs-grpc/gateway/internal/apierror"
	"github.com/jobs-grpc/jobs-grpc/gateway/internal/config"
	"github.com/jobs-grpc/jobs-grpc/gateway/internal/limits"
	"github.com/jobs-grpc/jobs-grpc/gateway/internal/routes"
)

// readBody replaces the body of the request with a requestBody, or with http.NoBody if the body is empty or the
// operation has none. It reserves the memory of the body and of the decoded message.
func readBody(m *routes.Match, w http.ResponseWriter, r *http.Request, maxBytes int64) *apierror.Error {
	if m.Operation.RequestBody == nil {
		r.Body = http.NoBody
		return nil
	}
	memory := limits.RequestMemoryFromContext(r.Context())
	body, reserved, e := readAll(w, r, maxBytes, memory)
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
	size := limits.DecodedSize(body)
	if size > limits.FreeBytes && !reserved {
		if e := memory.Learn(r.Context()); e != nil {
			return e
		}
		if e := memory.Buffers.Reserve(r.Context(), int64(len(body))*config.WireFactor); e != nil {
			return e
		}
	}
	r.Body = &requestBody{json: body, inPath: m.Variables}
	return memory.Messages.Reserve(r.Context(), size)
}

// readAll reads the body to the end: only then does net/http notice when the client disconnects.
// Before it holds more than FreeBytes, it learns who the caller is and reserves memory.
func readAll(w http.ResponseWriter, r *http.Request, maxBytes int64, memory *limits.RequestMemory) (body []byte, reserved bool, e *apierror.Error) {
	if r.ContentLength > maxBytes {
		return nil, false, readError(&http.MaxBytesError{}, maxBytes)
	}
	limited := http.MaxBytesReader(w, newPacedBody(w, r), maxBytes)
	body, err := io.ReadAll(io.LimitReader(limited, limits.FreeBytes))
	if err != nil || len(body) < limits.FreeBytes {
		return body, false, readError(err, maxBytes)
	}
	if e := memory.Learn(r.Context()); e != nil {
		return nil, false, e
	}
	size := maxBytes // unknown in a chunked body
	if r.ContentLength > 0 {
		size = r.ContentLength
	}
	if e := memory.Buffers.Reserve(r.Context(), size*config.WireFactor); e != nil {
		return nil, true, e
	}
	// One byte more than the maximum makes limited return its error.
	all := append(make([]byte, 0, size+1), body...)
	n, err := io.ReadFull(limited, all[len(body):size+1])
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = nil
	}
	return all[:len(body)+n], true, readError(err, maxBytes)
}

// readError converts an error from reading a body.
func readError(err error, maxBytes int64) *apierror.Error {
	var tooLarge *http.MaxBytesError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &tooLarge):
		detail := fmt.Sprintf("The body is too large; the limit is %d bytes", maxBytes)
		return apierror.New(codes.InvalidArgument, "BODY_TOO_LARGE", detail).WithStatus(http.StatusRequestEntityTooLarge)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return apierror.New(codes.DeadlineExceeded, "BODY_TOO_SLOW", "The body did not arrive in time").
			WithStatus(http.StatusRequestTimeout)
	}
	return apierror.MalformedRequest("The body could not be read")
}

func checkContentType(r *http.Request) *apierror.Error {
	unsupported := func(detail string) *apierror.Error {
		return apierror.New(codes.InvalidArgument, "UNSUPPORTED_MEDIA_TYPE", detail).WithStatus(http.StatusUnsupportedMediaType)
	}
	if encoding := r.Header.Get("Content-Encoding"); encoding != "" && !strings.EqualFold(encoding, "identity") {
		return unsupported("The body must not be compressed; send it without Content-Encoding")
	}
	// A missing type is rejected too: browsers send a preflight request only for application/json.
	if mediaType, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err == nil && mediaType == "application/json" {
		return nil
	}
	return unsupported("The body must be JSON; send Content-Type: application/json")
}

const (
	// bodyPatience is how long a client may send nothing of a body.
	bodyPatience = 10 * time.Second
	// bodyPace is the time that each byte adds, up to bodyPatience: a client may send 1 KiB per second.
	bodyPace = time.Second >> 10
)

// pacedBody is a body whose client must not be slow: a slow one would hold its slot and its memory. Only the time in
// which the gateway waits for the client counts. Read returns os.ErrDeadlineExceeded if the client is too slow.
type pacedBody struct {
	io.ReadCloser
	control *http.ResponseController
	left    time.Duration // how long the client may still send nothing
	ends    time.Time     // of the request
}

func newPacedBody(w http.ResponseWriter, r *http.Request) *pacedBody {
	ends, _ := r.Context().Deadline()
	return &pacedBody{r.Body, http.NewResponseController(w), bodyPatience, ends}
}

func (b *pacedBody) Read(p []byte) (int, error) {
	started := time.Now()
	deadline := started.Add(b.left)
	if b.ends.Before(deadline) {
		deadline = b.ends
	}
	_ = b.control.SetReadDeadline(deadline) // fails only in tests
	n, err := b.ReadCloser.Read(p)
	b.left = min(b.left-time.Since(started)+time.Duration(n)*bodyPace, bodyPatience)
	// Not b.left: HTTP/2 would end the body also while the gateway does not read it. After the body, net/http reads on to
	// notice when the client disconnects.
	_ = b.control.SetReadDeadline(b.ends)
	return n, err
}
