package tlsconfig

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/jobs-grpc/jobs-grpc/gateway/internal/config"
)

// NewUpstreamCredentials returns the credentials of the connections to the gRPC server.
func NewUpstreamCredentials(config *config.Config, logger *slog.Logger) (credentials.TransportCredentials, error) {
	if !config.UseUpstreamTLS() {
		return insecure.NewCredentials(), nil
	}
	load := func() (credentials.TransportCredentials, error) { return loadUpstreamCredentials(config) }
	current, err := newReloader(logger, load, config.UpstreamCA, config.UpstreamCert, config.UpstreamKey)
	if err != nil {
		return nil, err
	}
	return &reloadingCredentials{current.value, current}, nil
}

func loadUpstreamCredentials(config *config.Config) (credentials.TransportCredentials, error) {
	tlsConfig := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: config.UpstreamServerName}
	var err error
	if config.UpstreamCA != "" {
		if tlsConfig.RootCAs, err = loadCertPool(config.UpstreamCA); err != nil {
			return nil, fmt.Errorf("upstream-ca: %w", err)
		}
	}
	if config.UpstreamCert != "" {
		certificate, err := tls.LoadX509KeyPair(config.UpstreamCert, config.UpstreamKey)
		if err != nil {
			return nil, fmt.Errorf("upstream-cert and upstream-key: %w", err)
		}
		tlsConfig.Certificates = []tls.Certificate{certificate}
	}
	return credentials.NewTLS(tlsConfig), nil
}

// reloadingCredentials reloads changed certificate files in each handshake. crypto/tls has no
// callback that replaces the certificate authorities of a client.
type reloadingCredentials struct {
	credentials.TransportCredentials
	current *reloader[credentials.TransportCredentials]
}

func (c *reloadingCredentials) ClientHandshake(ctx context.Context, authority string, conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return c.current.get().ClientHandshake(ctx, authority, conn)
}

func (c *reloadingCredentials) Clone() credentials.TransportCredentials {
	return &reloadingCredentials{c.TransportCredentials.Clone(), c.current}
}
