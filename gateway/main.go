// Command jobs-gateway serves the gRPC services of fleet.jobs.v1 as a REST API: /customer for
// operators and /device for devices. It is stateless, so any number of instances can run.
//
// Need: clients of the platform, which call REST: docs/decisions/rest-gateway.md.
package main

import (
	"context"
	_ "embed"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"slices"
	"syscall"

	"google.golang.org/grpc/grpclog"

	"github.com/jobs-grpc/jobs-grpc/gateway/internal/config"
	"github.com/jobs-grpc/jobs-grpc/gateway/internal/server"
)

// openAPI is the generated OpenAPI document. The routes are loaded from it, so the gateway
// accepts exactly the paths, methods and query parameters that the document describes.
//
//go:embed gen/openapi.json
var openAPI []byte

// version is set by tools/release.py and deploy/docker/gateway.Dockerfile.
var version = "dev"

func main() {
	args := os.Args[1:]
	if slices.Contains(args, "--version") || slices.Contains(args, "-version") {
		fmt.Println(version)
		return
	}
	healthOnly := len(args) > 0 && args[0] == "health"
	if healthOnly {
		args = args[1:]
	}
	settings, err := config.Load(args, os.LookupEnv)
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "jobs-gateway:", err)
		os.Exit(2)
	}
	if healthOnly {
		if err := server.CheckHealth(context.Background(), settings); err != nil {
			fmt.Fprintln(os.Stderr, "jobs-gateway:", err)
			os.Exit(1)
		}
		return
	}
	logger := slog.New(slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: settings.LogLevel}))
	config.WarnOfUnknownVariables(os.Environ(), logger)
	// gRPC and grpc-gateway report clients that disconnect as errors, in lines that are not JSON.
	grpcErrors := slog.NewLogLogger(logger.Handler(), slog.LevelDebug).Writer()
	grpclog.SetLoggerV2(grpclog.NewLoggerV2(io.Discard, io.Discard, grpcErrors))
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := server.Run(ctx, openAPI, settings, logger); err != nil {
		logger.Error("stopped", "error", err)
		os.Exit(1)
	}
}
