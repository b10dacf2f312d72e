package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// run serves until ctx ends, then drains.
func run(ctx context.Context, config *Config, logger *slog.Logger) error {
	upstream, err := dial(config, logger)
	if err != nil {
		return err
	}
	defer upstream.Close()
	metrics := newMetrics()
	handler, err := newHandler(config, upstream, metrics, logger)
	if err != nil {
		return err
	}
	tlsConfig, err := serverTLS(config, logger)
	if err != nil {
		return err
	}
	api := newServer(handler, config, logger)
	api.TLSConfig = tlsConfig
	failed := make(chan error, 2)
	if err := start(api, config.Listen, "listening", failed, logger); err != nil {
		return err
	}
	if config.MetricsListen != "" {
		mux := http.NewServeMux()
		mux.Handle("GET /metrics", promhttp.HandlerFor(metrics.registry, promhttp.HandlerOpts{}))
		server := newServer(mux, config, logger)
		defer server.Close()
		if err := start(server, config.MetricsListen, "metrics listening", failed, logger); err != nil {
			return errors.Join(err, api.Close())
		}
	}
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	return drain(api, config.ShutdownGrace, logger)
}

func newServer(handler http.Handler, config *Config, logger *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 10 * time.Second,
		// A body may take as long as the call, and an answer as long again.
		ReadTimeout:    config.Timeout,
		WriteTimeout:   2*config.Timeout + 10*time.Second,
		IdleTimeout:    2 * time.Minute,
		MaxHeaderBytes: 32 << 10,
		ErrorLog:       slog.NewLogLogger(logger.Handler(), slog.LevelDebug),
	}
}

func start(server *http.Server, address, event string, failed chan<- error, logger *slog.Logger) error {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return fmt.Errorf("can't listen on %s: %w", address, err)
	}
	logger.Info(event, "address", listener.Addr().String(), "tls", server.TLSConfig != nil)
	go func() {
		if server.TLSConfig != nil {
			failed <- server.ServeTLS(listener, "", "")
		} else {
			failed <- server.Serve(listener)
		}
	}()
	return nil
}

// drain takes no new calls and gives those in flight the grace.
func drain(server *http.Server, grace time.Duration, logger *slog.Logger) error {
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	if err := server.Shutdown(ctx); err != nil {
		logger.Warn("calls were still in flight and are cut off", "grace", grace.Seconds())
		return server.Close()
	}
	logger.Info("stopped")
	return nil
}

// serverTLS is nil without TLS. Its files are looked at in each handshake.
func serverTLS(config *Config, logger *slog.Logger) (*tls.Config, error) {
	if config.TLSCert == "" {
		return nil, nil
	}
	read := func() (*tls.Config, error) { return readServerTLS(config) }
	files, err := newReloading(logger, read, config.TLSCert, config.TLSKey, config.TLSClientCA)
	if err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion:         tls.VersionTLS12,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return files.get(), nil },
	}, nil
}

func readServerTLS(config *Config) (*tls.Config, error) {
	certificate, err := tls.LoadX509KeyPair(config.TLSCert, config.TLSKey)
	if err != nil {
		return nil, fmt.Errorf("tls-cert and tls-key: %w", err)
	}
	secured := &tls.Config{
		MinVersion:   tls.VersionTLS12,
		Certificates: []tls.Certificate{certificate},
		// http.Server adds them to its own only.
		NextProtos: []string{"h2", "http/1.1"},
	}
	if config.TLSClientCA != "" {
		if secured.ClientCAs, err = readCertificates(config.TLSClientCA); err != nil {
			return nil, fmt.Errorf("tls-client-ca: %w", err)
		}
		secured.ClientAuth = tls.RequireAndVerifyClientCert
		if len(config.TrustedPeers) > 0 {
			secured.VerifyConnection = onlyPeers(config.TrustedPeers)
		}
	}
	return secured, nil
}
