// Need: operators, whose containers have no other program for a health check.

package server

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/jobs-grpc/jobs-grpc/gateway/internal/config"
)

const healthCheckTimeout = 5 * time.Second

// CheckHealth asks the gateway that listens on config.Listen whether it serves requests. With
// TLS it does not verify the certificate, which names no loopback address, and it presents the
// gateway's own certificate in case the gateway requires client certificates.
func CheckHealth(ctx context.Context, config *config.Config) error {
	ctx, cancel := context.WithTimeout(ctx, healthCheckTimeout)
	defer cancel()
	transport := &http.Transport{DisableKeepAlives: true}
	scheme := "http"
	if config.TLSCert != "" {
		certificate, err := tls.LoadX509KeyPair(config.TLSCert, config.TLSKey)
		if err != nil {
			return fmt.Errorf("tls-cert and tls-key: %w", err)
		}
		scheme = "https"
		transport.TLSClientConfig = &tls.Config{
			InsecureSkipVerify: true,
			Certificates:       []tls.Certificate{certificate},
		}
	}
	host, port, err := net.SplitHostPort(config.Listen)
	if err != nil {
		return fmt.Errorf("listen=%s: %w", config.Listen, err)
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	url := scheme + "://" + net.JoinHostPort(host, port) + "/healthz"
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	response, err := transport.RoundTrip(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(io.LimitReader(response.Body, 200))
		return fmt.Errorf("not serving: %s: %s", response.Status, body)
	}
	return nil
}
