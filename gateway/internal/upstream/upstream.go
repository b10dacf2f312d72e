// Package upstream calls the gRPC server within the limits of calls and memory.
//
// Need: the limit of calls, and memory that is reserved before more of a response is read.
package upstream

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"github.com/jobs-grpc/jobs-grpc/gateway/internal/config"
	"github.com/jobs-grpc/jobs-grpc/gateway/internal/limits"
	"github.com/jobs-grpc/jobs-grpc/gateway/internal/tlsconfig"
)

// Upstream spreads calls over several connections to the gRPC server, and bounds the number of
// calls and the memory of their messages. It is the grpc.ClientConnInterface of the clients.
type Upstream struct {
	connections pool
	calls       *limits.Semaphore
	// Separate connections for watches: a watch lasts long and must not use a stream that calls need.
	watchConnections pool
}

// NewCallers returns the callers of these connections.
func (u *Upstream) NewCallers(trustedProxies []netip.Prefix) *limits.Callers {
	return limits.NewCallers(len(u.connections.all), u.connections.next, trustedProxies)
}

// WatchConnection returns the next connection for a watch.
func (u *Upstream) WatchConnection() *grpc.ClientConn { return u.watchConnections.next() }

// pool is a set of connections that are used in turn.
type pool struct {
	all  []*grpc.ClientConn
	turn atomic.Uint64
}

// next returns one connection after the other. It skips those in TRANSIENT_FAILURE,
// because their calls fail at once, unless all are.
func (p *pool) next() *grpc.ClientConn {
	turn, count := p.turn.Add(1), uint64(len(p.all))
	for n := range count {
		if next := p.all[(turn+n)%count]; next.GetState() != connectivity.TransientFailure {
			return next
		}
	}
	return p.all[turn%count]
}

func (u *Upstream) Close() {
	for _, connection := range slices.Concat(u.connections.all, u.watchConnections.all) {
		connection.Close()
	}
}

// NewStream is not called: watch.Handler serves the streams.
func (u *Upstream) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	return u.connections.next().NewStream(ctx, desc, method, opts...)
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
	stream, err := u.connections.next().NewStream(ctx, &grpc.StreamDesc{}, method, append(opts, grpc.ForceCodecV2(RawCodec{}))...)
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

// serviceConfig spreads calls over all addresses of a name. It has no retry policy: only the
// HTTP client knows whether a request may be sent again.
const serviceConfig = `{"loadBalancingConfig": [{"round_robin": {}}]}`

// With a low MaxDelay, the gateway soon connects to a server that starts after it: people wait for it at the console.
var reconnectBackoff = backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second}

// The windows limit what the gateway buffers of a response that has no memory reserved yet.
const (
	streamWindow     = 64 << 10
	connectionWindow = 1 << 20
)

// Dial returns the connections to the gRPC server. They connect in the background.
func Dial(config *config.Config, logger *slog.Logger) (*Upstream, error) {
	creds, err := tlsconfig.NewUpstreamCredentials(config, logger)
	if err != nil {
		return nil, err
	}
	u := &Upstream{calls: limits.NewCalls(config.UpstreamConnections)}
	dial := func(connections *pool, count int64) error {
		for range count {
			connection, err := grpc.NewClient(config.Upstream,
				grpc.WithTransportCredentials(creds),
				grpc.WithDefaultServiceConfig(serviceConfig),
				grpc.WithUserAgent("jobs-gateway"),
				grpc.WithInitialWindowSize(streamWindow),
				grpc.WithInitialConnWindowSize(connectionWindow),
				// The server is on the internal network: an HTTPS_PROXY for outgoing traffic must not see the calls.
				grpc.WithNoProxy(),
				// The server allows at most one ping every 10 s.
				grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}),
				grpc.WithConnectParams(grpc.ConnectParams{Backoff: reconnectBackoff, MinConnectTimeout: 5 * time.Second}),
			)
			if err != nil {
				return fmt.Errorf("upstream=%s: %w", config.Upstream, err)
			}
			connections.all = append(connections.all, connection)
		}
		return nil
	}
	streams := config.MaxWatches + config.MaxEventStreams
	if err := cmp.Or(
		dial(&u.connections, int64(config.UpstreamConnections)),
		// These connect with the first stream.
		dial(&u.watchConnections, (streams+limits.StreamsPerConnection-1)/limits.StreamsPerConnection),
	); err != nil {
		return nil, err
	}
	for _, connection := range u.connections.all {
		connection.Connect()
	}
	return u, nil
}
