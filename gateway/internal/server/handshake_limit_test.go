package server

import (
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/jobs-grpc/jobs-grpc/gateway/internal/gatewaytest"
)

// cutConn stops sending after a number of bytes, and does not say so.
type cutConn struct {
	net.Conn
	remaining int
}

func (c *cutConn) Write(b []byte) (int, error) {
	sent := b[:min(len(b), c.remaining)]
	c.remaining -= len(sent)
	if _, err := c.Conn.Write(sent); err != nil {
		return 0, err
	}
	return len(b), nil
}

func TestHandshake_Fails_WhenCertificatesAreLarge(t *testing.T) {
	cert, key := gatewaytest.SelfSigned(t, "gateway")
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	server := newServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
	}), gatewaytest.LoadTestConfig(t, nil), gatewaytest.DiscardLogger)
	// Without timeouts, only the limit ends the handshake.
	server.ReadHeaderTimeout, server.ReadTimeout, server.WriteTimeout = 0, 0, 0
	server.TLSConfig = &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAnyClientCert}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go server.ServeTLS(handshakeLimitListener{listener}, "", "")
	defer server.Close()

	for _, protocol := range []string{"h2", "http/1.1"} {
		transport := &http.Transport{ForceAttemptHTTP2: protocol == "h2", TLSClientConfig: &tls.Config{
			InsecureSkipVerify: true, Certificates: []tls.Certificate{pair}, NextProtos: []string{protocol},
		}}
		for _, size := range []int{1, 2 * maxFirstBytes} {
			body := strings.NewReader(strings.Repeat("x", size))
			response, err := (&http.Client{Transport: transport}).Post("https://"+listener.Addr().String(), "text/plain", body)
			if err != nil || response.StatusCode != http.StatusOK {
				t.Error(protocol, "body of", size, "bytes:", response, err)
			}
		}
		transport.CloseIdleConnections()
	}

	large := pair
	for range 500 { // 180 KiB
		large.Certificate = append(large.Certificate, pair.Certificate[0])
	}
	connection, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer connection.Close()
	client := tls.Client(&cutConn{connection, 100 << 10}, &tls.Config{
		InsecureSkipVerify: true, Certificates: []tls.Certificate{large},
	})
	if err = client.Handshake(); err == nil {
		_, err = client.Read(make([]byte, 1))
	}
	if err == nil {
		t.Error("the handshake did not fail")
	}
}
