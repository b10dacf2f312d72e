package main

import (
	"bytes"
	"context"
	"net/http"
	"runtime"
	"time"
)

const (
	// Each request may hold so many bytes of body and decoded message without counting against a
	// limit. A typical request needs less, so it never waits. Only callers that the server has
	// authenticated may hold more.
	freeBytes = 32 << 10

	// Estimates of the bytes of the decoded message and of the JSON for each byte of a protobuf
	// response. A page of executions has 9 and 3 to 5. Unusual documents have up to 35 and 6.
	decodedFactor = 16
	jsonFactor    = 3
)

// decodedSize estimates the bytes of the decoded message of a JSON body. The weights are the
// measured bytes of one value in a google.protobuf.Struct.
func decodedSize(body []byte) int64 {
	count := func(text string) int64 { return int64(bytes.Count(body, []byte(text))) }
	return int64(len(body)) + 120*count(",") + 150*count("[") + 450*count("{")
}

// memoryLimits are the two parts of JOBS_GATEWAY_MAX_BUFFERED_BYTES.
type memoryLimits struct {
	size int64
	// buffers limits bodies, and responses until they are sent. They wait for clients and the server.
	buffers *fairSemaphore
	// messages limits decoded messages, which wait for nothing. A separate limit excludes deadlocks
	// between requests that hold a buffer and need a message.
	messages *fairSemaphore
}

func newMemoryLimits(size int64) *memoryLimits {
	// Messages keep a core busy and wait for nothing, so the subjects of a tenant need no shares.
	half := size / 4
	return &memoryLimits{
		size, newFairSemaphore(size/2, sharesOf(size/2)), newFairSemaphore(size/2, shares{half, half, half, half}),
	}
}

// decodedResponseSize estimates the bytes of the decoded message of a response. A page counts at least
// as much as one core's share of the limit, because decoding it and encoding its JSON keep a core busy.
// So the pages of one tenant use at most half of the cores.
func (l *memoryLimits) decodedResponseSize(response []byte) int64 {
	size := int64(len(response)) * decodedFactor
	if size <= freeBytes {
		return size
	}
	return max(size, l.size/2/int64(runtime.GOMAXPROCS(0)))
}

// reservation is a part of a limit that one request holds. Amounts up to freeBytes are free.
type reservation struct {
	limits    *memoryLimits
	semaphore *fairSemaphore
	identity  *identity
	holder    caller // the caller that held counts for
	held      int64
}

// reserve waits until the amount is free. The reservation must be empty.
func (r *reservation) reserve(ctx context.Context, amount int64) *apiError {
	if amount <= freeBytes {
		return nil
	}
	taken, e := r.identity.admit(ctx, r.semaphore, amount)
	if e != nil {
		return e
	}
	r.holder = r.identity.caller
	amount = min(amount, r.semaphore.maximum(r.holder))
	if !taken && !r.semaphore.acquire(ctx, r.holder, amount) {
		return overloaded("max-buffered-bytes", r.limits.size)
	}
	r.held = amount
	return nil
}

// resize changes the amount without waiting. If the caller has become known, the amount counts for it now.
func (r *reservation) resize(amount int64) *apiError {
	if amount <= freeBytes {
		amount = 0
	}
	holder := r.identity.caller
	amount = min(amount, r.semaphore.maximum(holder))
	if r.held+amount > 0 && !r.semaphore.exchange(r.holder, r.held, holder, amount) {
		return overloaded("max-buffered-bytes", r.limits.size)
	}
	r.holder, r.held = holder, amount
	return nil
}

func (r *reservation) release() {
	if r.held > 0 {
		r.semaphore.release(r.holder, r.held)
	}
	r.held = 0
}

// requestMemory is the caller of one request, and the memory that the request holds of both limits.
type requestMemory struct {
	*identity
	buffers  reservation
	messages reservation
}

func newRequestMemory(limits *memoryLimits, id *identity) *requestMemory {
	return &requestMemory{
		identity: id,
		buffers:  reservation{limits: limits, semaphore: limits.buffers, identity: id},
		messages: reservation{limits: limits, semaphore: limits.messages, identity: id},
	}
}

func (m *requestMemory) release() {
	m.buffers.release()
	m.messages.release()
}

type requestMemoryKey struct{}

func withRequestMemory(ctx context.Context, m *requestMemory) context.Context {
	return context.WithValue(ctx, requestMemoryKey{}, m)
}

// requestMemoryFromContext panics if ctx is not of a request.
func requestMemoryFromContext(ctx context.Context) *requestMemory {
	return ctx.Value(requestMemoryKey{}).(*requestMemory)
}

// boundedWriter corrects the memory of a request when its response starts, and limits the time
// that the client may take to read the response.
type boundedWriter struct {
	http.ResponseWriter
	memory  *requestMemory
	timeout time.Duration
	started bool
}

func (w *boundedWriter) Write(b []byte) (int, error) {
	if !w.started {
		w.started = true
		w.memory.messages.release()                // b is the whole response
		_ = w.memory.buffers.resize(int64(len(b))) // if it fails, the estimate stays reserved
		_ = http.NewResponseController(w.ResponseWriter).SetWriteDeadline(time.Now().Add(w.timeout))
	}
	return w.ResponseWriter.Write(b)
}

func (w *boundedWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
