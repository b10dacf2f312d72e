// Need: streams that browsers read, through proxies that close silent connections.

package watch

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/jobs-grpc/jobs-grpc/gateway/internal/apierror"
)

// retryHint is how long EventSource waits before it connects again.
const retryHint = 2 * time.Second

// eventWriter writes Server-Sent Events. The client must read each within the timeout.
type eventWriter struct {
	w        http.ResponseWriter
	control  *http.ResponseController
	timeout  time.Duration
	interval time.Duration // between heartbeats
	idle     *time.Ticker

	mu         sync.Mutex // guards w and the fields below
	heartbeat  []byte
	started    bool
	isComplete bool // the last message has been sent, or the client has it already
}

func newEventWriter(w http.ResponseWriter, timeout time.Duration, heartbeat []byte, interval time.Duration) *eventWriter {
	control := http.NewResponseController(w)
	// net/http would cancel the request at its read timeout, and HTTP/2 reset the response at its write
	// timeout although nothing is written.
	_ = control.SetReadDeadline(time.Time{})
	_ = control.SetWriteDeadline(time.Time{})
	return &eventWriter{
		w: w, control: control, timeout: timeout, interval: interval, idle: time.NewTicker(interval), heartbeat: heartbeat,
	}
}

// send sends the text of a message. Heartbeats after it have its position.
func (o *eventWriter) send(m message) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if m.heartbeat != nil {
		o.heartbeat = m.heartbeat
	}
	o.isComplete = m.isLast
	if len(m.text) == 0 {
		return nil
	}
	defer o.idle.Reset(o.interval)
	return o.write(m.text)
}

// beat sends the heartbeat when nothing is sent for an interval, until ctx ends, stopping is closed, the last message
// is sent or the client has disconnected.
func (o *eventWriter) beat(ctx context.Context, stopping <-chan struct{}) {
	for {
		select {
		case <-stopping:
			return
		case <-ctx.Done():
			return
		case <-o.idle.C:
		}
		if !o.mu.TryLock() {
			continue // a message is being sent
		}
		isEnd := o.isComplete || o.write(o.heartbeat) != nil
		o.mu.Unlock()
		if isEnd {
			return
		}
	}
}

// write requires o.mu.
func (o *eventWriter) write(event []byte) error {
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

// fail sends an error: as the response, or as an event "failure" if the response has started. No heartbeat may follow.
func (o *eventWriter) fail(e *apierror.Error) {
	if !o.started {
		e.Write(o.w)
		return
	}
	_ = o.write(fmt.Appendf(nil, "event: failure\ndata: %s\n\n", e.Body(o.w)))
}
