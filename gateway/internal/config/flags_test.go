package config

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
)

func TestUnknownVariablesAreLoggedWithTheNearestName(t *testing.T) {
	var log bytes.Buffer
	WarnOfUnknownVariables([]string{
		"JOBS_GATEWAY_UPSTREM=secret",
		"JOBS_GATEWAY_UPSTREAM=127.0.0.1:1",
		"JOBS_GATEWAY_SERVICE_HOST=10.0.0.1",
		"JOBS_GATEWAY_SERVICE_PORT_HTTP=8080",
		"JOBS_GATEWAY_PORT=tcp://10.0.0.1:8080",
		"JOBS_GATEWAY_PORT_8080_TCP_ADDR=10.0.0.1",
		"JOBS_LISTEN=127.0.0.1:50051",
		"PATH=/bin",
	}, slog.New(slog.NewTextHandler(&log, nil)))

	if lines := strings.Count(log.String(), "\n"); lines != 1 {
		t.Fatalf("%d lines: %s", lines, log.String())
	}
	if !strings.Contains(log.String(), "variable=JOBS_GATEWAY_UPSTREM nearest=JOBS_GATEWAY_UPSTREAM") {
		t.Error(log.String())
	}
	if strings.Contains(log.String(), "secret") {
		t.Error("the value is logged: " + log.String())
	}
}
