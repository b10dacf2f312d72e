package tlsconfig

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"net"
	"os"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	jobsv1 "github.com/jobs-grpc/jobs-grpc/gateway/gen/fleet/jobs/v1"
	"github.com/jobs-grpc/jobs-grpc/gateway/internal/config"
	"github.com/jobs-grpc/jobs-grpc/gateway/internal/gatewaytest"
)

// replaceFiles takes pairs of a target and a source. It replaces each target with a copy of its
// source with a rename, as tools that renew certificates do.
func replaceFiles(t *testing.T, pairs ...string) {
	t.Helper()
	for i := 0; i < len(pairs); i += 2 {
		target, source := pairs[i], pairs[i+1]
		content, err := os.ReadFile(source)
		if err == nil {
			err = os.WriteFile(target+".new", content, 0o600)
		}
		if err == nil {
			err = os.Rename(target+".new", target)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// handshake runs a TLS handshake over a pipe. It returns the common name of the server's
// certificate and the server's error if it rejects the client.
func handshake(t *testing.T, server *tls.Config, cert, key string) (serverName string, err error) {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	return handshakeWith(t, server, pair)
}

func handshakeWith(t *testing.T, server *tls.Config, pair tls.Certificate) (serverName string, err error) {
	t.Helper()
	clientConn, serverConn := net.Pipe()
	defer clientConn.Close()
	serverErr := make(chan error, 1)
	go func() {
		serverErr <- tls.Server(serverConn, server).Handshake()
		serverConn.Close()
	}()
	client := tls.Client(clientConn, &tls.Config{
		InsecureSkipVerify: true,
		// Unlike Certificates, this also sends a certificate that the server's authorities did not issue.
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil },
		VerifyPeerCertificate: func(raw [][]byte, _ [][]*x509.Certificate) error {
			certificate, err := x509.ParseCertificate(raw[0])
			if err == nil {
				serverName = certificate.Subject.CommonName
			}
			return err
		},
	})
	if client.Handshake() == nil {
		client.Read(make([]byte, 1)) // waits until the server closes the connection
	}
	return serverName, <-serverErr
}

func TestServerTLS_ReloadsChangedFiles(t *testing.T) {
	firstCert, firstKey := gatewaytest.SelfSigned(t, "first")
	dir := t.TempDir()
	cert, key, ca := dir+"/cert", dir+"/key", dir+"/ca"
	replaceFiles(t, cert, firstCert, key, firstKey, ca, firstCert)
	nextCert, nextKey := gatewaytest.SelfSigned(t, "next")
	var log bytes.Buffer
	config, err := NewServer(
		&config.Config{TLSCert: cert, TLSKey: key, TLSClientCA: ca, TrustedPeers: []string{"first", "next"}},
		slog.New(slog.NewTextHandler(&log, nil)),
	)
	if err != nil {
		t.Fatal(err)
	}
	expect := func(step, serverName, acceptedClient string, logLines int) {
		t.Helper()
		for _, client := range []struct{ name, cert, key string }{{"first", firstCert, firstKey}, {"next", nextCert, nextKey}} {
			name, err := handshake(t, config, client.cert, client.key)
			if name != serverName || (err == nil) != (client.name == acceptedClient) {
				t.Errorf("%s: client %s saw the server %s, error %v", step, client.name, name, err)
			}
		}
		if got := strings.Count(log.String(), "\n"); got != logLines {
			t.Errorf("%s: %d log lines, want %d:\n%s", step, got, logLines, log.String())
		}
	}

	expect("initial files", "first", "first", 0)
	replaceFiles(t, cert, nextCert)
	expect("new certificate, old key", "first", "first", 1)
	replaceFiles(t, key, nextKey)
	expect("new certificate and key", "next", "first", 2)
	replaceFiles(t, ca, nextCert)
	expect("new client authorities", "next", "next", 3)
	if err := os.WriteFile(ca, []byte("-----BEGIN CERT"), 0o600); err != nil {
		t.Fatal(err)
	}
	expect("half-written authorities", "next", "next", 4)
	if err := os.Remove(cert); err != nil {
		t.Fatal(err)
	}
	expect("certificate removed", "next", "next", 5)
	replaceFiles(t, cert, firstCert, key, firstKey, ca, firstCert)
	expect("first files restored", "first", "first", 6)
}

func TestServerTLS_RejectsClient_WhenNotTrustedPeer(t *testing.T) {
	cert, key := gatewaytest.SelfSigned(t, "proxy")
	for peer, accepted := range map[string]bool{"proxy": true, "other": false} {
		config, err := NewServer(&config.Config{TLSCert: cert, TLSKey: key, TLSClientCA: cert, TrustedPeers: []string{peer}}, gatewaytest.DiscardLogger)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := handshake(t, config, cert, key); (err == nil) != accepted {
			t.Errorf("%s: %v", peer, err)
		}
	}
}

func TestDeviceServerTLS_RejectsClient_WhenItSendsManyCertificates(t *testing.T) {
	cert, key := gatewaytest.SelfSigned(t, "gateway")
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	server, err := NewDeviceServer(&config.Config{DeviceTLSCert: cert, DeviceTLSKey: key}, gatewaytest.DiscardLogger)
	if err != nil {
		t.Fatal(err)
	}
	for len(pair.Certificate) < 4 {
		pair.Certificate = append(pair.Certificate, pair.Certificate[0])
	}
	if _, err := handshakeWith(t, server, pair); err != nil {
		t.Error("4 certificates:", err)
	}
	pair.Certificate = append(pair.Certificate, pair.Certificate[0])
	if _, err := handshakeWith(t, server, pair); err == nil || !strings.Contains(err.Error(), "client sent 5 certificates") {
		t.Error("5 certificates:", err)
	}
}

func TestUpstreamTLS_ReloadsChangedFiles(t *testing.T) {
	firstCert, firstKey := gatewaytest.SelfSigned(t, "first")
	dir := t.TempDir()
	cert, key, ca := dir+"/cert", dir+"/key", dir+"/ca"
	replaceFiles(t, cert, firstCert, key, firstKey, ca, firstCert)
	nextCert, nextKey := gatewaytest.SelfSigned(t, "next")
	upstreams := map[string]string{} // address by certificate file
	for _, files := range [][2]string{{firstCert, firstKey}, {nextCert, nextKey}} {
		pair, err := tls.LoadX509KeyPair(files[0], files[1])
		authorities, err2 := loadCertPool(files[0])
		if err := errors.Join(err, err2); err != nil {
			t.Fatal(err)
		}
		upstreams[files[0]] = gatewaytest.ServeStub(t, &gatewaytest.Stub{Job: &jobsv1.Job{}}, grpc.Creds(credentials.NewTLS(&tls.Config{
			Certificates: []tls.Certificate{pair}, ClientCAs: authorities, ClientAuth: tls.RequireAndVerifyClientCert,
		})))
	}
	creds, err := NewUpstreamCredentials(&config.Config{UpstreamCA: ca, UpstreamCert: cert, UpstreamKey: key}, gatewaytest.DiscardLogger)
	if err != nil {
		t.Fatal(err)
	}
	expect := func(step, accepted string) {
		t.Helper()
		for cert, address := range upstreams {
			conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(creds))
			if err != nil {
				t.Fatal(err)
			}
			_, err = jobsv1.NewJobServiceClient(conn).GetJob(t.Context(), &jobsv1.GetJobRequest{})
			conn.Close()
			if (err == nil) != (cert == accepted) {
				t.Errorf("%s: %v", step, err)
			}
		}
	}

	expect("initial files", firstCert)
	replaceFiles(t, ca, nextCert, key, nextKey)
	expect("old certificate, new key and authorities", firstCert)
	replaceFiles(t, cert, nextCert)
	expect("all files new", nextCert)
}
