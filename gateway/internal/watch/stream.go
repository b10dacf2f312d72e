// Package watch serves streams of the server as Server-Sent Events: the states of a job, and the events of a tenant.
package watch

import (
	"context"
	"math/rand/v2"
	"net/http"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/jobs-grpc/jobs-grpc/gateway/internal/apierror"
	"github.com/jobs-grpc/jobs-grpc/gateway/internal/config"
	"github.com/jobs-grpc/jobs-grpc/gateway/internal/limits"
	"github.com/jobs-grpc/jobs-grpc/gateway/internal/upstream"
)

const (
	// Proxies close connections on which nothing is sent for a while, often a minute.
	heartbeatInterval = 15 * time.Second

	// Limits of the random wait before the gateway calls again after the server became unavailable. It is
	// random so that all streams do not return at once.
	minReconnectWait = 500 * time.Millisecond
	maxReconnectWait = 5 * time.Second
)

// Handler serves the streams.
type Handler struct {
	upstream   *upstream.Upstream
	jobSlots   slots
	eventSlots slots
	limits     *limits.MemoryLimits
	timeout    time.Duration // for the client to read one message
	stopping   <-chan struct{}

	heartbeat time.Duration
	reconnect time.Duration
}

// NewHandler returns a Handler that ends its streams when stopping is closed.
func NewHandler(stopping <-chan struct{}, config *config.Config, upstream *upstream.Upstream, memory *limits.MemoryLimits) *Handler {
	return &Handler{
		upstream: upstream, jobSlots: newSlots("max-watches", config.MaxWatches),
		eventSlots: newSlots("max-event-streams", config.MaxEventStreams), limits: memory,
		timeout: config.RequestTimeout, stopping: stopping, heartbeat: heartbeatInterval, reconnect: minReconnectWait,
	}
}

// stream is a stream of the server for one client.
type stream interface {
	// open calls the server. After an error, it continues where the stream ended.
	open(ctx context.Context, connection *grpc.ClientConn) (grpc.ClientStream, error)
	// convert returns what the client gets for an encoded response.
	convert(response []byte) (message, error)
	// canResume reports whether the client waits while the server is unavailable. Otherwise it gets the error.
	canResume() bool
}

// message is what the client gets for a response of the server, or the error that ended the stream.
type message struct {
	text      []byte // empty: the client has it already
	heartbeat []byte // from now on; nil: unchanged
	isLast    bool
	err       *apierror.Error
	sent      chan struct{} // closed when the text has been sent, before the next response is received
}

// serve sends a stream until its last message, the client disconnects, the server returns an error that a retry can't
// fix, or the gateway stops. If nothing is sent for an interval, it sends the heartbeat.
func (h *Handler) serve(
	w http.ResponseWriter, r *http.Request, id *limits.Identity, slots *slots, stream stream, heartbeat []byte, interval time.Duration,
) {
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	memory := limits.NewRequestMemory(h.limits, id)
	defer memory.Release()
	slot := &slot{slots: slots, identity: id}
	if e := slot.acquire(ctx); e != nil {
		e.Write(w)
		return
	}
	defer slot.release()

	out := &eventWriter{w: w, control: http.NewResponseController(w), timeout: h.timeout}
	// net/http would cancel the request at its read timeout, and HTTP/2 reset the response at its write
	// timeout although nothing is written.
	_ = out.control.SetReadDeadline(time.Time{})
	_ = out.control.SetWriteDeadline(time.Time{})
	defer out.limitWrite() // of the end of the response
	messages := make(chan message)
	received := make(chan struct{})
	defer func() { cancel(); <-received }() // receive uses memory and slot until it returns
	go func() {
		defer close(received)
		h.receive(metadata.NewOutgoingContext(ctx, id.Forwarded), stream, memory, slot, messages)
	}()
	idle := time.NewTicker(interval)
	defer idle.Stop()
	for {
		var err error
		select {
		case <-h.stopping:
			return
		case <-ctx.Done():
			return
		case <-idle.C:
			err = out.send(heartbeat)
		case m := <-messages:
			switch {
			case m.err != nil:
				out.fail(m.err)
				return
			case len(m.text) > 0:
				err = out.send(m.text)
				idle.Reset(interval)
			case m.isLast && !out.started:
				w.WriteHeader(http.StatusNoContent)
			}
			if m.heartbeat != nil {
				heartbeat = m.heartbeat
			}
			close(m.sent)
			if m.isLast || r.Method == http.MethodHead {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// receive calls the server and passes on its messages. While the server is unavailable, it tries again if the stream
// can resume.
func (h *Handler) receive(
	ctx context.Context, stream stream, memory *limits.RequestMemory, slot *slot, messages chan<- message,
) {
	pass := func(m message) bool {
		m.sent = make(chan struct{})
		select {
		case messages <- m:
		case <-ctx.Done():
			return false
		}
		if m.err != nil {
			return false
		}
		select {
		case <-m.sent:
		case <-ctx.Done():
			return false
		}
		memory.Buffers.Release()
		return !m.isLast
	}
	wait := h.reconnect
	for {
		err := slot.learn(ctx)
		if err == nil {
			err = h.call(ctx, stream, memory, func(m message) bool {
				wait = h.reconnect
				return pass(m)
			})
		}
		if ctx.Err() != nil || err == nil {
			return
		}
		e := apierror.FromGRPC(ctx, err)
		// An unknown caller must not hold its slot for longer than the server is away.
		retry := e.Code == "UNAVAILABLE" || e.Code == "RESOURCE_EXHAUSTED" && slot.holder.Known()
		if !stream.canResume() || !retry {
			pass(message{err: e})
			return
		}
		timer := time.NewTimer(rand.N(wait))
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
		wait = min(2*wait, maxReconnectWait)
	}
}

// call calls the server once and passes on the messages until pass returns false or the stream ends.
func (h *Handler) call(ctx context.Context, stream stream, memory *limits.RequestMemory, pass func(message) bool) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer memory.Release() // if a reservation fails, the next call starts without any
	call, err := stream.open(ctx, h.upstream.WatchConnection())
	if err != nil {
		return err
	}
	for {
		var response []byte
		if err := call.RecvMsg(&response); err != nil {
			return err
		}
		if e := memory.Buffers.Reserve(ctx, int64(len(response))*limits.JSONFactor); e != nil {
			return e
		}
		if e := memory.Messages.Reserve(ctx, int64(len(response))*limits.DecodedFactor); e != nil {
			return e
		}
		m, err := stream.convert(response)
		memory.Messages.Release() // the text, which waits for the client, is in the buffers
		if err != nil {
			return err
		}
		_ = memory.Buffers.Resize(int64(len(m.text))) // if it fails, the estimate stays reserved
		if !pass(m) {
			return nil
		}
	}
}
