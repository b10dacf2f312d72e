// Need: the limit max-buffered-bytes. Attacks: gateway-unread-responses, gateway-half-sent-bodies.

package limits

import (
	"bytes"
	"context"
	"net/http"
	"runtime"
	"time"

	"github.com/jobs-grpc/jobs-grpc/gateway/internal/apierror"
)

const (
	// FreeBytes is the amount of each limit that a request may hold without being counted. A typical request needs
	// less, so it never waits.
	FreeBytes = 32 << 10

	// Estimates of the bytes of the decoded message and of the JSON for each byte of a protobuf
	// response. A page of executions has 9 and 3 to 5. Unusual documents have up to 35 and 6.
	DecodedFactor = 16
	JSONFactor    = 3
)

// DecodedSize estimates the bytes of the decoded message of a JSON body. The weights are the
// measured bytes of one value in a google.protobuf.Struct.
func DecodedSize(body []byte) int64 {
	count := func(text string) int64 { return int64(bytes.Count(body, []byte(text))) }
	return int64(len(body)) + 120*count(",") + 150*count("[") + 450*count("{")
}

// MemoryLimits are the two parts of JOBS_GATEWAY_MAX_BUFFERED_BYTES.
type MemoryLimits struct {
	size int64
	// Buffers limits bodies, and responses until they are sent. A request holds them while it waits for its client
	// or for the server.
	Buffers *Semaphore
	// Messages limits decoded messages. A request that holds one waits for nothing. With one limit for both,
	// requests that hold a buffer and need a message could wait for each other forever.
	Messages *Semaphore
}

func NewMemoryLimits(size int64) *MemoryLimits {
	// A message is held only while a core works on it, so the subjects of a tenant need no shares of their own.
	half := size / 4
	messages := NewSemaphore(size/2, Shares{half, half, half, half}).withSetting("max-buffered-bytes", size)
	limits := &MemoryLimits{size, NewLimit(size/2, "max-buffered-bytes", size), messages}
	limits.Buffers.uncounted, limits.Messages.uncounted = FreeBytes, FreeBytes
	return limits
}

// DecodedResponseSize estimates the bytes of the decoded message of a response. A page counts at least
// as much as one core's share of the limit, because decoding it and encoding its JSON keep a core busy.
// So the pages of one tenant use at most half of the cores.
func (l *MemoryLimits) DecodedResponseSize(response []byte) int64 {
	size := int64(len(response)) * DecodedFactor
	if size <= FreeBytes {
		return size
	}
	return max(size, l.size/2/int64(runtime.GOMAXPROCS(0)))
}

// RequestMemory is the caller of one request, and the memory that the request holds of both limits.
type RequestMemory struct {
	*Identity
	Limits   *MemoryLimits
	Buffers  *Reservation
	Messages *Reservation
}

func NewRequestMemory(limits *MemoryLimits, id *Identity) *RequestMemory {
	return &RequestMemory{id, limits, id.Reservation(limits.Buffers), id.Reservation(limits.Messages)}
}

func (m *RequestMemory) Release() {
	m.Buffers.Release()
	m.Messages.Release()
}

type requestMemoryKey struct{}

func WithRequestMemory(ctx context.Context, m *RequestMemory) context.Context {
	return context.WithValue(ctx, requestMemoryKey{}, m)
}

// RequestMemoryFromContext panics if ctx is not of a request.
func RequestMemoryFromContext(ctx context.Context) *RequestMemory {
	return ctx.Value(requestMemoryKey{}).(*RequestMemory)
}

// BoundedWriter corrects the memory of a request when its response starts, and limits the time
// that the client may take to read the response.
type BoundedWriter struct {
	http.ResponseWriter
	Memory  *RequestMemory
	Timeout time.Duration
	started bool
}

func (w *BoundedWriter) Write(b []byte) (int, error) {
	if !w.started {
		w.started = true
		w.Memory.Messages.Release()                // b is the whole response
		_ = w.Memory.Buffers.Resize(int64(len(b))) // if it fails, the estimate stays reserved
		_ = http.NewResponseController(w.ResponseWriter).SetWriteDeadline(time.Now().Add(w.Timeout))
	}
	return w.ResponseWriter.Write(b)
}

func (w *BoundedWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// Reservation is the part of a semaphore that one request holds. It counts for the caller, or for the address of a caller
// that is not known yet.
type Reservation struct {
	Semaphore *Semaphore
	identity  *Identity
	holder    Caller // the caller whose share Held counts against
	Held      int64
}

// Reservation returns an empty reservation of the caller.
func (id *Identity) Reservation(s *Semaphore) *Reservation {
	return &Reservation{Semaphore: s, identity: id}
}

// Reserve waits until the amount is free. The reservation must be empty. If the share of the address of an unknown caller
// does not have that much, it asks the server who the caller is: callers with one address must not wait for each other.
func (r *Reservation) Reserve(ctx context.Context, amount int64) *apierror.Error {
	if amount <= r.Semaphore.uncounted || !r.identity.Known() && r.Resize(amount) == nil {
		return nil
	}
	if e := r.identity.Learn(ctx); e != nil {
		return e
	}
	holder := r.identity.Caller
	amount = min(amount, r.Semaphore.Maximum(holder))
	if !r.Semaphore.Acquire(ctx, holder, amount) {
		return r.Semaphore.overloaded()
	}
	r.holder, r.Held = holder, amount
	return nil
}

// TryReserve is Reserve for requests that must not wait for others.
func (r *Reservation) TryReserve(ctx context.Context, amount int64) *apierror.Error {
	e := r.Resize(amount)
	if e == nil || r.identity.Known() {
		return e
	}
	if e := r.identity.Learn(ctx); e != nil {
		return e
	}
	return r.Resize(amount)
}

// Resize changes the amount without waiting. If the caller has become known, the amount moves to its share.
func (r *Reservation) Resize(amount int64) *apierror.Error {
	if amount <= r.Semaphore.uncounted {
		amount = 0
	}
	holder := r.identity.Caller
	if r.Held == 0 {
		r.holder = holder
	}
	amount = min(amount, r.Semaphore.Maximum(holder))
	if r.Held+amount > 0 && !r.Semaphore.Exchange(r.holder, r.Held, holder, amount) {
		return r.Semaphore.overloaded()
	}
	r.holder, r.Held = holder, amount
	return nil
}

// Learn asks the server who the caller is if the amount counts for its address, and moves the amount to its share.
func (r *Reservation) Learn(ctx context.Context) *apierror.Error {
	if r.HolderKnown() {
		return nil
	}
	if e := r.identity.Learn(ctx); e != nil {
		return e
	}
	return r.Resize(r.Held)
}

// HolderKnown reports whether the amount counts for a known caller.
func (r *Reservation) HolderKnown() bool { return r.holder.Known() }

func (r *Reservation) Release() {
	if r.Held > 0 {
		r.Semaphore.Release(r.holder, r.Held)
	}
	r.Held = 0
}
