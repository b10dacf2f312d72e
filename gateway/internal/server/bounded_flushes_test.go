package server

import (
	"bytes"
	"crypto/tls"
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
	connection, err := tls.Dial("tcp", server.Listener.Addr().String(), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
	if err != nil {
		t.Fatal(err)
	}
	defer connection.Close()
	connection.SetDeadline(time.Now().Add(10 * time.Second))
	io.WriteString(connection, http2.ClientPreface)
	framer := http2.NewFramer(connection, connection)
	framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
	const requests = 60
	for n := range uint32(requests) {
		var block bytes.Buffer
		encoder := hpack.NewEncoder(&block)
		for _, field := range [][2]string{{":method", "GET"}, {":scheme", "https"}, {":path", "/nothing"}, {":authority", "localhost"}} {
			encoder.WriteField(hpack.HeaderField{Name: field[0], Value: field[1]})
		}
		framer.WriteHeaders(http2.HeadersFrameParam{
			StreamID: 2*n + 1, BlockFragment: block.Bytes(), EndStream: true, EndHeaders: true,
		})
	}
	for resets := 0; resets < requests-10; {
		frame, err := framer.ReadFrame()
		if err != nil {
			t.Fatalf("%v after %d resets", err, resets)
		}
		if frame.Header().Type == http2.FrameRSTStream {
			resets++
		}
	}
	connection.Close()
	for { // until the gateway has noticed
		response, err := server.Client().Get(server.URL + "/nothing")
		if err == nil && response.StatusCode == http.StatusNotFound {
			return
		}
	}
}
