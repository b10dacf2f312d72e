// Package server puts the gateway together and serves it over HTTP.
//
// Need: operators. Attacks: gateway-slow-headers, gateway-large-headers.
package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"runtime/debug"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/jobs-grpc/jobs-grpc/gateway/internal/config"
	"github.com/jobs-grpc/jobs-grpc/gateway/internal/limits"
	"github.com/jobs-grpc/jobs-grpc/gateway/internal/observability"
	"github.com/jobs-grpc/jobs-grpc/gateway/internal/tlsconfig"
	"github.com/jobs-grpc/jobs-grpc/gateway/internal/upstream"
)

// baseMemory is what the process needs besides the limits: code, connections, headers, and the
// free bytes of requests.
const baseMemory = 160 << 20

// deviceMemory is what max-connections more, with TLS, need at device-listen.
const deviceMemory = 160 << 20

// streamsPerClient is the maximum number of requests in flight on one HTTP/2 connection.
const streamsPerClient = 100

// Run serves the REST API and the metrics until ctx ends, then drains requests in flight.
func Run(ctx context.Context, openAPI []byte, config *config.Config, logger *slog.Logger) error {
	setMemoryLimit(config)
	upstream, err := upstream.Dial(config, logger)
	if err != nil {
		return err
	}
	defer upstream.Close()
	tracer, err := observability.NewTracer(logger)
	if err != nil {
		return err
	}
	defer tracer.ShutDown(logger)
	metrics := observability.NewMetrics()
	apiHandler, deviceHandler, err := newHandlers(ctx.Done(), openAPI, config, upstream, metrics, tracer, logger)
	if err != nil {
		return err
	}
	api := newServer(apiHandler, config, logger)
	if api.TLSConfig, err = tlsconfig.NewServer(config, logger); err != nil {
		return err
	}
	failed := make(chan error, 3)
	servers := []*http.Server{api}
	if config.DeviceListen != "" {
		devices := newServer(deviceHandler, config, logger)
		if devices.TLSConfig, err = tlsconfig.NewDeviceServer(config, logger); err != nil {
			return err
		}
		defer devices.Close()
		if err := startServer(devices, "device-listen", config.DeviceListen, "listening for devices", failed, logger); err != nil {
			return err
		}
		servers = append(servers, devices)
	}
	if err := startServer(api, "listen", config.Listen, "listening", failed, logger); err != nil {
		return err
	}
	if config.MetricsListen != "" {
		server := newServer(newMetricsHandler(config, metrics), config, logger)
		defer server.Close()
		if err := startServer(server, "metrics-listen", config.MetricsListen, "metrics listening", failed, logger); err != nil {
			return errors.Join(err, api.Close())
		}
	}
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	return shutDown(servers, config.ShutdownGrace, logger)
}

// newMetricsHandler returns the handler of the metrics listener. Prometheus scrapes it by another name than clients
// use for the API, so allowed-hosts does not apply.
func newMetricsHandler(config *config.Config, metrics *observability.Metrics) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(metrics.Registry, promhttp.HandlerOpts{}))
	return withAllowedHosts(nil, config.MetricsListen, mux)
}

func newServer(handler http.Handler, config *config.Config, logger *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 10 * time.Second,
		// The client may take RequestTimeout to send the body and as long again to read the response;
		// WriteTimeout has 10 s to spare. net/http adds 4 KiB to MaxHeaderBytes.
		ReadTimeout:    config.RequestTimeout,
		WriteTimeout:   2*config.RequestTimeout + 10*time.Second,
		IdleTimeout:    2 * time.Minute,
		MaxHeaderBytes: 32 << 10,
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams: streamsPerClient,
			// Bodies that wait for memory must not block the other streams of their connection.
			MaxReceiveBufferPerConnection: streamsPerClient * limits.FreeBytes,
			MaxReceiveBufferPerStream:     limits.FreeBytes,
			WriteByteTimeout:              config.RequestTimeout,
		},
		ConnState: newConnectionLimit(config.MaxConnections, logger).update,
		ErrorLog:  slog.NewLogLogger(logger.Handler(), slog.LevelDebug),
	}
}

// setMemoryLimit lets the garbage collector run more often as memory approaches what the limits
// allow. GOMEMLIMIT in the environment takes precedence.
func setMemoryLimit(config *config.Config) {
	if os.Getenv("GOMEMLIMIT") != "" {
		return
	}
	limit := baseMemory + 2*config.MaxBufferedBytes
	if config.DeviceListen != "" {
		limit += deviceMemory
	}
	debug.SetMemoryLimit(limit)
}

// startServer listens on address, the value of setting, logs event and serves in the background.
// It sends the error that ends serving to failed.
func startServer(server *http.Server, setting, address, event string, failed chan<- error, logger *slog.Logger) error {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		if call := new(os.SyscallError); errors.As(err, &call) {
			err = call.Err // without the address
		}
		return fmt.Errorf("%s=%s: %w; set --%s or %s to another address", setting, address, err, setting, config.EnvName(setting))
	}
	scheme := "http"
	if server.TLSConfig != nil {
		scheme = "https"
	}
	logger.Info(event, "address", listener.Addr().String(), "tls", server.TLSConfig != nil,
		"url", scheme+"://"+listener.Addr().String())
	go func() {
		if server.TLSConfig != nil {
			failed <- server.ServeTLS(handshakeLimitListener{listener}, "", "")
		} else {
			failed <- server.Serve(listener)
		}
	}()
	return nil
}

// shutDown stops accepting requests and waits up to grace for those in flight.
func shutDown(servers []*http.Server, grace time.Duration, logger *slog.Logger) error {
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	stopped := make(chan error)
	for _, server := range servers {
		go func() { stopped <- server.Shutdown(ctx) }()
	}
	var err error
	for range servers {
		err = errors.Join(err, <-stopped)
	}
	if err == nil {
		logger.Info("stopped")
		return nil
	}
	logger.Warn("requests in flight aborted: they did not finish within shutdown-grace", "seconds", grace.Seconds())
	err = nil
	for _, server := range servers {
		err = errors.Join(err, server.Close())
	}
	return err
}
