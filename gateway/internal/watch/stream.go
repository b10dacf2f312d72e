// Package watch serves streams of the server as Server-Sent Events: the states of a job, and the events of a tenant.
//
// Need: streams that last across restarts of the server. Attack: gateway-event-streams.
package watch

import (
	"context"
	"math/rand/v2"
	"net/http"
	"sync"
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
	jobSlots   *limits.Semaphore
	eventSlots *limits.Semaphore
	limits     *limits.MemoryLimits
	timeout    time.Duration // for the client to read one message
	stopping   <-chan struct{}

	heartbeat time.Duration
	reconnect time.Duration
}

// NewHandler returns a Handler that ends its streams when stopping is closed.
func NewHandler(stopping <-chan struct{}, config *config.Config, upstream *upstream.Upstream, memory *limits.MemoryLimits) *Handler {
	return &Handler{
		upstream: upstream, jobSlots: limits.NewLimit(config.MaxWatches, "max-watches", config.MaxWatches),
		eventSlots: limits.NewLimit(config.MaxEventStreams, "max-event-streams", config.MaxEventStreams), limits: memory,
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

// message is what the client gets for a response of the server.
type message struct {
	text      []byte // empty: the client has it already
	heartbeat []byte // from now on; nil: unchanged
	isLast    bool
}

// serve sends a stream until its last message, the client disconnects, the server returns an error that a retry can't
// fix, or the gateway stops. If nothing is sent for an interval, it sends the heartbeat.
func (h *Handler) serve(
	w http.ResponseWriter, r *http.Request, id *limits.Identity, slots *limits.Semaphore, stream stream, heartbeat []byte, interval time.Duration,
) {
	ctx, cancel := context.WithCancel(metadata.NewOutgoingContext(r.Context(), id.Forwarded))
	defer cancel()
	memory := limits.NewRequestMemory(h.limits, id)
	defer memory.Release()
	slot := id.Reservation(slots)
	if e := slot.TryReserve(ctx, 1); e != nil {
		e.Write(w)
		return
	}
	defer slot.Release()

	out := newEventWriter(w, h.timeout, heartbeat, interval)
	defer out.limitWrite() // of the end of the response
	var beating sync.WaitGroup
	beating.Go(func() {
		defer cancel() // the gateway stops, or the client has disconnected
		out.beat(ctx, h.stopping)
	})
	stop := func() {
		cancel()
		beating.Wait()
	}
	defer stop() // also after a panic: beat uses w
	isHead := r.Method == http.MethodHead
	e := h.receive(ctx, stream, memory, slot, func(m message) (more bool) { return out.send(m) == nil && !m.isLast && !isHead })
	stop()
	switch {
	case e != nil:
		out.fail(e)
	case out.isComplete && !out.started:
		w.WriteHeader(http.StatusNoContent)
	}
}

// receive calls the server and passes on its messages to send, until it returns false. While the server is unavailable, it
// tries again if the stream can resume. Otherwise it returns the error for the client.
func (h *Handler) receive(
	ctx context.Context, stream stream, memory *limits.RequestMemory, slot *limits.Reservation, send func(message) bool,
) *apierror.Error {
	wait := h.reconnect
	for {
		err := h.call(ctx, stream, memory, slot, func(m message) bool {
			wait = h.reconnect
			return send(m)
		})
		if ctx.Err() != nil || err == nil {
			return nil
		}
		e := apierror.FromGRPC(ctx, err)
		// An unknown caller must not hold its slot for longer than the server is away.
		retry := e.Code == "UNAVAILABLE" || e.Code == "RESOURCE_EXHAUSTED" && slot.HolderKnown()
		if !stream.canResume() || !retry {
			return e
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(rand.N(wait)):
		}
		wait = min(2*wait, maxReconnectWait)
	}
}

// call calls the server once and passes on the messages until send returns false or the stream ends.
func (h *Handler) call(
	ctx context.Context, stream stream, memory *limits.RequestMemory, slot *limits.Reservation, send func(message) bool,
) error {
	if e := slot.Learn(ctx); e != nil {
		return e
	}
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
		if !send(m) {
			return nil
		}
		memory.Buffers.Release()
	}
}
