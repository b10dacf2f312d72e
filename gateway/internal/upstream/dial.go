package upstream

import (
	"fmt"
	"log/slog"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/keepalive"

	"github.com/jobs-grpc/jobs-grpc/gateway/internal/config"
	"github.com/jobs-grpc/jobs-grpc/gateway/internal/limits"
	"github.com/jobs-grpc/jobs-grpc/gateway/internal/tlsconfig"
)

// serviceConfig spreads calls over all addresses of a name. It has no retry policy: only the
// HTTP client knows whether a request may be sent again.
const serviceConfig = `{"loadBalancingConfig": [{"round_robin": {}}]}`

// With a low MaxDelay, the gateway soon connects to a server that starts after it.
var reconnectBackoff = backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 5 * time.Second}

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
	dial := func(count int) (connections []*grpc.ClientConn, err error) {
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
				return nil, fmt.Errorf("upstream=%s: %w", config.Upstream, err)
			}
			connections = append(connections, connection)
		}
		return connections, nil
	}
	connections, err := dial(config.UpstreamConnections)
	if err != nil {
		return nil, err
	}
	for _, connection := range connections {
		connection.Connect()
	}
	// These connect with the first stream.
	watchConnections, err := dial(int((config.MaxWatches + config.MaxEventStreams + limits.StreamsPerConnection - 1) / limits.StreamsPerConnection))
	if err != nil {
		return nil, err
	}
	return newUpstream(connections, watchConnections), nil
}
