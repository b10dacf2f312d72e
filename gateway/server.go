package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// run serves the REST API and the metrics until ctx ends, then drains requests in flight.
func run(ctx context.Context, config *Config, logger *slog.Logger) error {
	upstream, err := dialUpstream(config, logger)
	if err != nil {
		return err
	}
	defer upstream.Close()
	metrics := newMetrics()
	handler, err := newHandler(config, upstream, metrics, logger)
	if err != nil {
		return err
	}
	api := newServer(handler, config, logger)
	if api.TLSConfig, err = newServerTLSConfig(config, logger); err != nil {
		return err
	}
	failed := make(chan error, 2)
	if err := startServer(api, config.Listen, "listening", failed, logger); err != nil {
		return fmt.Errorf("listen=%s: %w", config.Listen, err)
	}
	if config.MetricsListen != "" {
		mux := http.NewServeMux()
		mux.Handle("GET /metrics", promhttp.HandlerFor(metrics.registry, promhttp.HandlerOpts{}))
		server := newServer(withAllowedHosts(config.AllowedHosts, config.MetricsListen, mux), config, logger)
		defer server.Close()
		if err := startServer(server, config.MetricsListen, "metrics listening", failed, logger); err != nil {
			return errors.Join(fmt.Errorf("metrics-listen=%s: %w", config.MetricsListen, err), api.Close())
		}
	}
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	return shutDown(api, config.ShutdownGrace, logger)
}

func newServer(handler http.Handler, config *Config, logger *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 10 * time.Second,
		// The client may take RequestTimeout to send the body and as long again to read the response;
		// WriteTimeout has 10 s to spare. net/http adds 4 KiB to MaxHeaderBytes.
		ReadTimeout:    config.RequestTimeout,
		WriteTimeout:   2*config.RequestTimeout + 10*time.Second,
		IdleTimeout:    2 * time.Minute,
		MaxHeaderBytes: 32 << 10,
		ErrorLog:       slog.NewLogLogger(logger.Handler(), slog.LevelDebug),
	}
}

// startServer listens on address, logs event and serves in the background. It sends the error
// that ends serving to failed.
func startServer(server *http.Server, address, event string, failed chan<- error, logger *slog.Logger) error {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
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

// shutDown stops accepting requests and waits up to grace for those in flight.
func shutDown(server *http.Server, grace time.Duration, logger *slog.Logger) error {
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	if err := server.Shutdown(ctx); err != nil {
		logger.Warn("requests in flight aborted: they did not finish within shutdown-grace", "seconds", grace.Seconds())
		return server.Close()
	}
	logger.Info("stopped")
	return nil
}
