package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
)

// A name with many addresses is used in turn. Nothing is retried here: whether a call
// may be sent again is its caller's to say.
const serviceConfig = `{"loadBalancingConfig": [{"round_robin": {}}]}`

var reconnect = backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 5 * time.Second}

// dial makes the connection to the server, which is opened at once and kept.
func dial(config *Config, logger *slog.Logger) (*grpc.ClientConn, error) {
	secured, err := upstreamCredentials(config, logger)
	if err != nil {
		return nil, err
	}
	connection, err := grpc.NewClient(config.Upstream,
		grpc.WithTransportCredentials(secured),
		grpc.WithDefaultServiceConfig(serviceConfig),
		grpc.WithUnaryInterceptor(onlyAllowedMetadata),
		grpc.WithUserAgent("jobs-gateway"),
		// The server is on the inside; a proxy to the outside must not see the calls.
		grpc.WithNoProxy(),
		// The server refuses more than a ping each 10 s.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}),
		// A server that starts after the gateway is found soon.
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: reconnect, MinConnectTimeout: 5 * time.Second}),
	)
	if err != nil {
		return nil, fmt.Errorf("upstream=%s: %w", config.Upstream, err)
	}
	connection.Connect()
	return connection, nil
}

func upstreamCredentials(config *Config, logger *slog.Logger) (credentials.TransportCredentials, error) {
	if !config.upstreamTLS() {
		return insecure.NewCredentials(), nil
	}
	read := func() (credentials.TransportCredentials, error) { return readUpstreamCredentials(config) }
	files, err := newReloading(logger, read, config.UpstreamCA, config.UpstreamCert, config.UpstreamKey)
	if err != nil {
		return nil, err
	}
	return &reloadingCredentials{files.last, files}, nil
}

func readUpstreamCredentials(config *Config) (credentials.TransportCredentials, error) {
	secured := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: config.UpstreamServerName}
	var err error
	if config.UpstreamCA != "" {
		if secured.RootCAs, err = readCertificates(config.UpstreamCA); err != nil {
			return nil, fmt.Errorf("upstream-ca: %w", err)
		}
	}
	if config.UpstreamCert != "" {
		certificate, err := tls.LoadX509KeyPair(config.UpstreamCert, config.UpstreamKey)
		if err != nil {
			return nil, fmt.Errorf("upstream-cert and upstream-key: %w", err)
		}
		secured.Certificates = []tls.Certificate{certificate}
	}
	return credentials.NewTLS(secured), nil
}

// reloadingCredentials looks at the files in each handshake: crypto/tls has no callback for
// the authorities of a client.
type reloadingCredentials struct {
	credentials.TransportCredentials
	files *reloading[credentials.TransportCredentials]
}

func (c *reloadingCredentials) ClientHandshake(ctx context.Context, authority string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return c.files.get().ClientHandshake(ctx, authority, raw)
}

func (c *reloadingCredentials) Clone() credentials.TransportCredentials {
	return &reloadingCredentials{c.TransportCredentials.Clone(), c.files}
}
