// Package tlsconfig has the TLS of the listener and of the connections to the gRPC server. It reloads changed files.
package tlsconfig

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"

	"github.com/jobs-grpc/jobs-grpc/gateway/internal/config"
)

// NewServer returns the TLS configuration of the REST listener, or nil if TLS is off.
// It reloads changed certificate files in each handshake.
func NewServer(config *config.Config, logger *slog.Logger) (*tls.Config, error) {
	if config.TLSCert == "" {
		return nil, nil
	}
	load := func() (*tls.Config, error) { return loadServerTLSConfig(config) }
	current, err := newReloader(logger, load, config.TLSCert, config.TLSKey, config.TLSClientCA)
	if err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion:         tls.VersionTLS12,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return current.get(), nil },
	}, nil
}

func loadServerTLSConfig(config *config.Config) (*tls.Config, error) {
	certificate, err := tls.LoadX509KeyPair(config.TLSCert, config.TLSKey)
	if err != nil {
		return nil, fmt.Errorf("tls-cert and tls-key: %w", err)
	}
	tlsConfig := &tls.Config{
		MinVersion:   tls.VersionTLS12,
		Certificates: []tls.Certificate{certificate},
		// http.Server sets NextProtos only in its own configuration, not in this one.
		NextProtos: []string{"h2", "http/1.1"},
	}
	if config.TLSClientCA != "" {
		if tlsConfig.ClientCAs, err = loadCertPool(config.TLSClientCA); err != nil {
			return nil, fmt.Errorf("tls-client-ca: %w", err)
		}
		tlsConfig.ClientAuth = tls.RequireAndVerifyClientCert
		if len(config.TrustedPeers) > 0 {
			tlsConfig.VerifyConnection = verifyTrustedPeer(config.TrustedPeers)
		}
	}
	return tlsConfig, nil
}

func loadCertPool(file string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, errors.New("no certificate in " + file)
	}
	return pool, nil
}
