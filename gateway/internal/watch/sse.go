package watch

import (
	"fmt"
	"net/http"
	"time"

	"github.com/jobs-grpc/jobs-grpc/gateway/internal/apierror"
)

// retryHint is how long EventSource waits before it connects again.
const retryHint = 2 * time.Second

// eventWriter writes Server-Sent Events. The client must read each within the timeout.
type eventWriter struct {
	w       http.ResponseWriter
	control *http.ResponseController
	timeout time.Duration
	started bool
}

func (o *eventWriter) send(event []byte) error {
	o.limitWrite()
	if !o.started {
		o.started = true
		header := o.w.Header()
		header.Set("Content-Type", "text/event-stream")
		header.Set("X-Accel-Buffering", "no") // nginx would buffer the events
		event = append(fmt.Appendf(nil, "retry: %d\n\n", retryHint.Milliseconds()), event...)
	}
	if _, err := o.w.Write(event); err != nil {
		return err
	}
	if err := o.control.Flush(); err != nil {
		return err
	}
	_ = o.control.SetWriteDeadline(time.Time{})
	return nil
}

func (o *eventWriter) limitWrite() {
	_ = o.control.SetWriteDeadline(time.Now().Add(o.timeout)) // fails only in tests
}

// fail sends an error: as the response, or as an event "failure" if the response has started.
func (o *eventWriter) fail(e *apierror.Error) {
	if !o.started {
		e.Write(o.w)
		return
	}
	_ = o.send(fmt.Appendf(nil, "event: failure\ndata: %s\n\n", e.Body(o.w)))
}
