// Package upstream calls the gRPC server within the limits of calls and memory.
package upstream

import (
	"context"
	"net/netip"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"github.com/jobs-grpc/jobs-grpc/gateway/internal/limits"
)

// Upstream spreads calls over several connections to the gRPC server, and bounds the number of
// calls and the memory of their messages. It is the grpc.ClientConnInterface of the clients.
type Upstream struct {
	connections []*grpc.ClientConn
	next        atomic.Uint64
	calls       *limits.Semaphore
	// Separate connections for watches: a watch lasts long and must not use a stream that calls need.
	watchConnections []*grpc.ClientConn
	nextWatch        atomic.Uint64
}

func newUpstream(connections, watchConnections []*grpc.ClientConn) *Upstream {
	return &Upstream{connections: connections, watchConnections: watchConnections, calls: limits.NewCalls(len(connections))}
}

// NewCallers returns the callers of these connections.
func (u *Upstream) NewCallers(trustedProxies []netip.Prefix) *limits.Callers {
	return limits.NewCallers(len(u.connections), u.connection, trustedProxies)
}

func (u *Upstream) connection() *grpc.ClientConn {
	return nextConnection(u.connections, u.next.Add(1))
}

// WatchConnection returns the next connection for a watch.
func (u *Upstream) WatchConnection() *grpc.ClientConn {
	return nextConnection(u.watchConnections, u.nextWatch.Add(1))
}

// nextConnection returns one connection after the other. It skips those in TRANSIENT_FAILURE,
// because their calls fail at once, unless all are.
func nextConnection(connections []*grpc.ClientConn, turn uint64) *grpc.ClientConn {
	count := uint64(len(connections))
	for n := range count {
		if next := connections[(turn+n)%count]; next.GetState() != connectivity.TransientFailure {
			return next
		}
	}
	return connections[turn%count]
}

func (u *Upstream) Close() {
	for _, connection := range append(u.connections, u.watchConnections...) {
		connection.Close()
	}
}

// NewStream is not called: watch.Handler serves the streams.
func (u *Upstream) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	return u.connection().NewStream(ctx, desc, method, opts...)
}

// Invoke makes a unary call. It clears args as soon as they are encoded, to free their memory.
func (u *Upstream) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	memory := limits.RequestMemoryFromContext(ctx)
	large := largeResponseOf(method)
	request, err := proto.Marshal(args.(proto.Message))
	if err != nil {
		return err
	}
	proto.Reset(args.(proto.Message))
	memory.Messages.Release()
	if e := memory.Buffers.Resize(int64(len(request))); e != nil {
		return e
	}
	if method != grpc_health_v1.Health_Check_FullMethodName {
		call := memory.Reservation(u.calls)
		if e := call.Reserve(ctx, 1); e != nil {
			return e
		}
		defer call.Release()
	}
	if large.writes {
		if e := reserveBeforeWrite(ctx, memory, int64(len(request))+large.bytes*limits.JSONFactor); e != nil {
			return e
		}
	}
	response, err := u.call(ctx, method, request, memory, large, opts)
	if err != nil {
		return err
	}
	if e := reserveForMessage(ctx, memory, response, large); e != nil {
		return e
	}
	return proto.Unmarshal(response, reply.(proto.Message))
}

// call returns the encoded response. Before it reads more of a large response than the flow control
// window, it reserves memory.
func (u *Upstream) call(
	ctx context.Context, method string, request []byte, memory *limits.RequestMemory, large largeResponse, opts []grpc.CallOption,
) ([]byte, error) {
	ctx, cancel := context.WithCancel(metadata.NewOutgoingContext(ctx, memory.Forwarded))
	defer cancel()
	stream, err := u.connection().NewStream(ctx, &grpc.StreamDesc{}, method, append(opts, grpc.ForceCodecV2(RawCodec{}))...)
	if err != nil {
		return nil, err
	}
	if err := stream.SendMsg(&request); err != nil {
		return nil, err
	}
	// Without header there is only an error, which RecvMsg returns.
	header, _ := stream.Header()
	if !large.writes {
		memory.Buffers.Release() // the server has read the request
		if header != nil {
			if e := memory.Buffers.Reserve(ctx, large.bytes); e != nil {
				return nil, e
			}
		}
	}
	var response []byte
	if err := stream.RecvMsg(&response); err != nil {
		return nil, err
	}
	size := int64(len(response)) * limits.JSONFactor
	if size > limits.FreeBytes {
		if e := memory.Learn(ctx); e != nil && large.reads() {
			return nil, e
		}
	}
	if e := memory.Buffers.Resize(size); e != nil && large.reads() {
		return nil, e
	}
	return response, nil
}

// RawCodec receives encoded messages, and sends encoded and other ones. Encoded ones are *[]byte.
type RawCodec struct{}

func (RawCodec) Name() string { return "proto" }

func (RawCodec) Marshal(v any) (mem.BufferSlice, error) {
	if encoded, ok := v.(*[]byte); ok {
		return mem.BufferSlice{mem.SliceBuffer(*encoded)}, nil
	}
	encoded, err := proto.Marshal(v.(proto.Message))
	return mem.BufferSlice{mem.SliceBuffer(encoded)}, err
}

func (RawCodec) Unmarshal(data mem.BufferSlice, v any) error {
	*v.(*[]byte) = data.Materialize()
	return nil
}
