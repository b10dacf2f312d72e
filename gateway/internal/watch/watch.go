// Package watch serves watches of jobs as Server-Sent Events.
package watch

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"net/http"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	jobsv1 "github.com/jobs-grpc/jobs-grpc/gateway/gen/fleet/jobs/v1"
	"github.com/jobs-grpc/jobs-grpc/gateway/internal/apierror"
	"github.com/jobs-grpc/jobs-grpc/gateway/internal/config"
	"github.com/jobs-grpc/jobs-grpc/gateway/internal/limits"
	"github.com/jobs-grpc/jobs-grpc/gateway/internal/restjson"
	"github.com/jobs-grpc/jobs-grpc/gateway/internal/upstream"
)

const (
	// Proxies close connections on which nothing is sent for a while, often a minute.
	heartbeatInterval = 15 * time.Second

	// Limits of the random wait before the gateway watches again after the server became unavailable. It is
	// random so that all watches do not return at once.
	minRewatchWait = 500 * time.Millisecond
	maxRewatchWait = 5 * time.Second
)

// Handler serves GET /customer/jobs/{job_id}:watch: WatchJob as Server-Sent Events.
type Handler struct {
	upstream *upstream.Upstream
	slots    *limits.Semaphore
	maximum  int64
	limits   *limits.MemoryLimits
	timeout  time.Duration // for the client to read one event
	stopping <-chan struct{}

	heartbeat time.Duration
	rewatch   time.Duration
}

// NewHandler returns a Handler that ends its watches when stopping is closed.
func NewHandler(stopping <-chan struct{}, config *config.Config, upstream *upstream.Upstream, memory *limits.MemoryLimits) *Handler {
	return &Handler{
		upstream: upstream, slots: limits.NewSemaphore(config.MaxWatches, limits.SharesOf(config.MaxWatches)),
		maximum: config.MaxWatches, limits: memory,
		timeout: config.RequestTimeout, stopping: stopping, heartbeat: heartbeatInterval, rewatch: minRewatchWait,
	}
}

// state is a state of the job, or the error that ended the server's stream.
type state struct {
	event    []byte
	id       string
	finished bool
	err      *apierror.Error
	sent     chan struct{} // closed when the event has been sent, before the next one is received
}

// Serve sends the states of a job until the job is finished, the client disconnects, the server
// returns an error that a retry can't fix, or the gateway stops.
//
// The ID of an event is a hash of the state. A client that reconnects with Last-Event-ID gets the
// current state only if it differs. If the job is finished and the state is the same, the client gets
// 204, which stops an EventSource.
func (h *Handler) Serve(w http.ResponseWriter, r *http.Request, id *limits.Identity, jobID string) {
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	memory := limits.NewRequestMemory(h.limits, id)
	defer memory.Release()
	slot := &watchSlot{h: h, identity: id}
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
	lastID := r.Header.Get("Last-Event-ID")
	states := make(chan state)
	received := make(chan struct{})
	defer func() { cancel(); <-received }() // receive uses memory and slot until it returns
	go func() {
		defer close(received)
		h.receive(metadata.NewOutgoingContext(ctx, id.Forwarded), jobID, memory, slot, states, lastID != "")
	}()
	heartbeat := time.NewTicker(h.heartbeat)
	defer heartbeat.Stop()
	for {
		var err error
		select {
		case <-h.stopping:
			return
		case <-ctx.Done():
			return
		case <-heartbeat.C:
			err = out.send([]byte(": heartbeat\n\n"))
		case s := <-states:
			switch {
			case s.err != nil:
				out.fail(s.err)
				return
			case s.id != lastID:
				lastID = s.id
				err = out.send(s.event)
			case s.finished && !out.started:
				w.WriteHeader(http.StatusNoContent)
			}
			close(s.sent)
			if s.finished || r.Method == http.MethodHead {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// receive watches the job and passes on its states. While the server is unavailable, it tries again,
// unless the client has no state yet: then the client gets the error.
func (h *Handler) receive(
	ctx context.Context, jobID string, memory *limits.RequestMemory, slot *watchSlot, states chan<- state, hasState bool,
) {
	pass := func(s state) bool {
		s.sent = make(chan struct{})
		select {
		case states <- s:
		case <-ctx.Done():
			return false
		}
		if s.err != nil {
			return false
		}
		select {
		case <-s.sent:
		case <-ctx.Done():
			return false
		}
		memory.Buffers.Release()
		return !s.finished
	}
	wait := h.rewatch
	for {
		err := slot.learn(ctx)
		if err == nil {
			err = h.watch(ctx, jobID, memory, func(s state) bool {
				hasState, wait = true, h.rewatch
				return pass(s)
			})
		}
		if ctx.Err() != nil || err == nil {
			return
		}
		e := apierror.FromGRPC(ctx, err)
		// An unknown caller must not hold its slot for longer than the server is away.
		retry := e.Code == "UNAVAILABLE" || e.Code == "RESOURCE_EXHAUSTED" && slot.holder.Known()
		if !hasState || !retry {
			pass(state{err: e})
			return
		}
		timer := time.NewTimer(rand.N(wait))
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
		wait = min(2*wait, maxRewatchWait)
	}
}

// watchSlot is the slot of one watch. It counts for the address of an unknown caller, and for the caller
// from when it becomes known, also while the server is away.
type watchSlot struct {
	h        *Handler
	identity *limits.Identity
	holder   limits.Caller
}

// acquire takes a slot for the caller, or for its address if it is unknown.
func (s *watchSlot) acquire(ctx context.Context) *apierror.Error {
	taken, e := s.identity.Admit(ctx, s.h.slots, 1)
	if e != nil {
		return e
	}
	if !taken && !s.h.slots.TryAcquire(s.identity.Caller, 1) {
		return apierror.Overloaded("max-watches", s.h.maximum)
	}
	s.holder = s.identity.Caller
	return nil
}

// learn asks who an unknown caller is, and moves the slot to its share.
func (s *watchSlot) learn(ctx context.Context) error {
	if s.holder.Known() {
		return nil
	}
	if e := s.identity.Learn(ctx); e != nil {
		return e
	}
	if !s.h.slots.Exchange(s.holder, 1, s.identity.Caller, 1) {
		return apierror.Overloaded("max-watches", s.h.maximum)
	}
	s.holder = s.identity.Caller
	return nil
}

func (s *watchSlot) release() { s.h.slots.Release(s.holder, 1) }

// watch calls WatchJob once and passes on the states until pass returns false or the stream ends.
func (h *Handler) watch(ctx context.Context, jobID string, memory *limits.RequestMemory, pass func(state) bool) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer memory.Release() // if a reservation fails, the next call starts without any
	client := jobsv1.NewJobServiceClient(h.upstream.WatchConnection())
	stream, err := client.WatchJob(ctx, &jobsv1.WatchJobRequest{JobId: jobID}, grpc.ForceCodecV2(upstream.RawCodec{}))
	if err != nil {
		return err
	}
	for {
		var response []byte
		if err := stream.RecvMsg(&response); err != nil {
			return err
		}
		if e := memory.Buffers.Reserve(ctx, int64(len(response))*limits.JSONFactor); e != nil {
			return e
		}
		if e := memory.Messages.Reserve(ctx, int64(len(response))*limits.DecodedFactor); e != nil {
			return e
		}
		s, err := newState(response)
		memory.Messages.Release() // the event, which waits for the client, is in the buffers
		if err != nil {
			return err
		}
		if !pass(s) {
			return nil
		}
	}
}

func newState(response []byte) (state, error) {
	var message jobsv1.WatchJobResponse
	if err := proto.Unmarshal(response, &message); err != nil {
		return state{}, err
	}
	body, err := restjson.Marshal(message.GetJob())
	if err != nil {
		return state{}, err
	}
	hash := sha256.Sum256(body)
	id := hex.EncodeToString(hash[:8])
	status := message.GetJob().GetStatus()
	return state{
		event:    fmt.Appendf(nil, "id: %s\ndata: %s\n\n", id, body),
		id:       id,
		finished: status == jobsv1.Job_COMPLETED || status == jobsv1.Job_CANCELED,
	}, nil
}
