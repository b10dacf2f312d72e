package rest

import (
	"io"
	"net/http"
	"time"
)

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
