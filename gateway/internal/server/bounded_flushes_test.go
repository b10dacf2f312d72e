package server

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/jobs-grpc/jobs-grpc/gateway/internal/gatewaytest"
)

func TestUnreadResponses_AreLimitedForAnAddress_OverHTTP2(t *testing.T) {
	// 80 requests in flight: an address has 10.
	env := map[string]string{"JOBS_GATEWAY_MAX_REQUESTS_IN_FLIGHT": "80"}
	server := httptest.NewUnstartedServer(nil)
	server.Config = newServer(newTestGateway(t, env), gatewaytest.LoadTestConfig(t, env), gatewaytest.DiscardLogger)
	server.EnableHTTP2 = true
	server.StartTLS()
	defer server.Close()
	connection := readNothing(t, server, "10.0.0.1", 60, 50)
	connection.Close()
	for { // until the gateway has noticed
		response, err := server.Client().Get(server.URL + "/nothing")
		if err == nil && response.StatusCode == http.StatusNotFound {
			return
		}
	}
}

func TestUnreadResponses_LeaveResponsesToOthers_OverHTTP2(t *testing.T) {
	env := map[string]string{"JOBS_GATEWAY_MAX_REQUESTS_IN_FLIGHT": "80", "JOBS_GATEWAY_TRUSTED_PROXIES": "127.0.0.1"}
	server := httptest.NewUnstartedServer(nil)
	server.Config = newServer(newTestGateway(t, env), gatewaytest.LoadTestConfig(t, env), gatewaytest.DiscardLogger)
	server.EnableHTTP2 = true
	server.StartTLS()
	t.Cleanup(server.Close) // after the connections
	for n := range 8 {
		readNothing(t, server, fmt.Sprintf("10.0.%d.1", n), 12, 2)
	}
	for range 10 {
		if response, err := server.Client().Get(server.URL + "/nothing"); err != nil || response.StatusCode != http.StatusNotFound {
			t.Fatal(err)
		}
	}
}

// readNothing sends requests from an address with no window for their responses, until so many are reset.
func readNothing(t *testing.T, server *httptest.Server, address string, requests uint32, resets int) io.Closer {
	connection, err := tls.Dial("tcp", server.Listener.Addr().String(), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { connection.Close() })
	connection.SetDeadline(time.Now().Add(10 * time.Second))
	io.WriteString(connection, http2.ClientPreface)
	framer := http2.NewFramer(connection, connection)
	framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
	for n := range requests {
		var block bytes.Buffer
		encoder := hpack.NewEncoder(&block)
		for _, field := range [][2]string{
			{":method", "GET"}, {":scheme", "https"}, {":path", "/nothing"}, {":authority", "localhost"}, {"x-forwarded-for", address},
		} {
			encoder.WriteField(hpack.HeaderField{Name: field[0], Value: field[1]})
		}
		framer.WriteHeaders(http2.HeadersFrameParam{
			StreamID: 2*n + 1, BlockFragment: block.Bytes(), EndStream: true, EndHeaders: true,
		})
	}
	for reset := 0; reset < resets; {
		frame, err := framer.ReadFrame()
		if err != nil {
			t.Fatalf("%v after %d resets", err, reset)
		}
		if frame.Header().Type == http2.FrameRSTStream {
			reset++
		}
	}
	return connection
}
