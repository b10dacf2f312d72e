// Package tlsconfig has the TLS of the listener and of the connections to the gRPC
// server, and reloads changed files in each handshake.
//
// Need: operators who serve HTTPS, or call the server with TLS.
package tlsconfig

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/jobs-grpc/jobs-grpc/gateway/internal/config"
)

// What a device can send: its own certificate, and three others.
const (
	maxDeviceCertificates     = 4
	maxDeviceCertificateBytes = 16 << 10
)

// NewServer returns the TLS configuration of the REST listener, or nil if TLS is off.
func NewServer(config *config.Config, logger *slog.Logger) (*tls.Config, error) {
	if config.TLSCert == "" {
		return nil, nil
	}
	load := func() (*tls.Config, error) {
		loaded, clientCAs, err := loadFiles("tls", config.TLSCert, config.TLSKey, "tls-client-ca", config.TLSClientCA)
		if err != nil {
			return nil, err
		}
		if clientCAs != nil {
			loaded.ClientCAs, loaded.ClientAuth = clientCAs, tls.RequireAndVerifyClientCert
			if len(config.TrustedPeers) > 0 {
				loaded.VerifyConnection = verifyTrustedPeer(config.TrustedPeers)
			}
		}
		return loaded, nil
	}
	return newListener(logger, load, config.TLSCert, config.TLSKey, config.TLSClientCA)
}

// NewDeviceServer returns the TLS configuration of the listener for devices. Clients must prove that they have the key
// of their certificate. The gRPC server verifies who issued it; with device-tls-client-ca, the handshake does so as well.
func NewDeviceServer(config *config.Config, logger *slog.Logger) (*tls.Config, error) {
	prefix, cert, key := "device-tls", config.DeviceTLSCert, config.DeviceTLSKey
	if cert == "" {
		prefix, cert, key = "tls", config.TLSCert, config.TLSKey
	}
	load := func() (*tls.Config, error) {
		loaded, clientCAs, err := loadFiles(prefix, cert, key, "device-tls-client-ca", config.DeviceTLSClientCA)
		if err != nil {
			return nil, err
		}
		loaded.ClientAuth = tls.RequireAnyClientCert
		loaded.VerifyPeerCertificate = checkChainSize
		if clientCAs != nil {
			loaded.ClientCAs, loaded.ClientAuth = clientCAs, tls.RequireAndVerifyClientCert
		}
		return loaded, nil
	}
	return newListener(logger, load, cert, key, config.DeviceTLSClientCA)
}

// checkChainSize refuses certificates that the upstream would refuse as well. Anybody can send a chain, of up to 256 KiB,
// and a connection keeps the parsed certificates, which take nine times as much.
func checkChainSize(certificates [][]byte, _ [][]*x509.Certificate) error {
	size := 0
	for _, certificate := range certificates {
		size += len(certificate)
	}
	if len(certificates) > maxDeviceCertificates || size > maxDeviceCertificateBytes {
		return fmt.Errorf("tls: client sent %d certificates of %d bytes", len(certificates), size)
	}
	return nil
}

// newListener returns the TLS configuration of a listener, which load builds from files.
func newListener(logger *slog.Logger, load func() (*tls.Config, error), files ...string) (*tls.Config, error) {
	current, err := newReloader(logger, func() (*tls.Config, error) {
		loaded, err := load()
		if err == nil {
			// http.Server sets NextProtos only in its own configuration, not in this one.
			loaded.NextProtos = []string{"h2", "http/1.1"}
		}
		return loaded, err
	}, files...)
	if err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion:         tls.VersionTLS12,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return current.get(), nil },
	}, nil
}

// NewUpstreamCredentials returns the credentials of the connections to the gRPC server.
func NewUpstreamCredentials(config *config.Config, logger *slog.Logger) (credentials.TransportCredentials, error) {
	if !config.UseUpstreamTLS() {
		return insecure.NewCredentials(), nil
	}
	load := func() (credentials.TransportCredentials, error) {
		loaded, rootCAs, err := loadFiles("upstream", config.UpstreamCert, config.UpstreamKey, "upstream-ca", config.UpstreamCA)
		if err != nil {
			return nil, err
		}
		loaded.RootCAs, loaded.ServerName = rootCAs, config.UpstreamServerName
		return credentials.NewTLS(loaded), nil
	}
	current, err := newReloader(logger, load, config.UpstreamCA, config.UpstreamCert, config.UpstreamKey)
	if err != nil {
		return nil, err
	}
	return &reloadingCredentials{current.value, current}, nil
}

// loadFiles loads a certificate with its key into a configuration, and certificate authorities, unless the files are "".
func loadFiles(prefix, cert, key, caSetting, ca string) (*tls.Config, *x509.CertPool, error) {
	loaded := &tls.Config{MinVersion: tls.VersionTLS12}
	if cert != "" {
		certificate, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			return nil, nil, fmt.Errorf("%s-cert and %[1]s-key: %w", prefix, err)
		}
		loaded.Certificates = []tls.Certificate{certificate}
	}
	if ca == "" {
		return loaded, nil, nil
	}
	pool, err := loadCertPool(ca)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", caSetting, err)
	}
	return loaded, pool, nil
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
