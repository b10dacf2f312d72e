package main

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
)

// replace renames files over others, as whoever renews certificates does.
func replace(t *testing.T, pairs ...string) {
	t.Helper()
	for i := 0; i < len(pairs); i += 2 {
		content, err := os.ReadFile(pairs[i+1])
		if err == nil {
			err = os.WriteFile(pairs[i]+".new", content, 0o600)
		}
		if err == nil {
			err = os.Rename(pairs[i]+".new", pairs[i])
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// shake is one handshake over a pipe: the name that the server has, and whether it took the client.
func shake(t *testing.T, server *tls.Config, cert, key string) (string, error) {
	t.Helper()
	own, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := net.Pipe()
	defer ours.Close()
	refused := make(chan error, 1)
	go func() {
		connection := tls.Server(theirs, server)
		refused <- connection.Handshake()
		theirs.Close()
	}()
	var name string
	client := tls.Client(ours, &tls.Config{
		InsecureSkipVerify: true,
		// Sent although it is not of the server's authorities.
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &own, nil },
		VerifyPeerCertificate: func(raw [][]byte, _ [][]*x509.Certificate) error {
			certificate, err := x509.ParseCertificate(raw[0])
			if err == nil {
				name = certificate.Subject.CommonName
			}
			return err
		},
	})
	if client.Handshake() == nil {
		client.Read(make([]byte, 1)) // until the server has closed
	}
	return name, <-refused
}

func TestTheServersFilesAreReadAgain(t *testing.T) {
	firstCert, firstKey := selfSigned(t, "first")
	folder := t.TempDir()
	cert, key, ca := folder+"/cert", folder+"/key", folder+"/ca"
	replace(t, cert, firstCert, key, firstKey, ca, firstCert)
	nextCert, nextKey := selfSigned(t, "next")
	var log bytes.Buffer
	config, err := serverTLS(
		&Config{TLSCert: cert, TLSKey: key, TLSClientCA: ca, TrustedPeers: list{"first", "next"}},
		slog.New(slog.NewTextHandler(&log, nil)),
	)
	if err != nil {
		t.Fatal(err)
	}
	expect := func(step, served, takes string, lines int) {
		t.Helper()
		for _, c := range []struct{ name, cert, key string }{{"first", firstCert, firstKey}, {"next", nextCert, nextKey}} {
			name, err := shake(t, config, c.cert, c.key)
			if name != served || (err == nil) != (c.name == takes) {
				t.Errorf("%s: %s was served %s, %v", step, c.name, name, err)
			}
		}
		if got := strings.Count(log.String(), "\n"); got != lines {
			t.Errorf("%s: logged %s", step, log.String())
		}
	}

	expect("at first", "first", "first", 0)
	replace(t, cert, nextCert)
	expect("the key is missing yet", "first", "first", 1)
	replace(t, key, nextKey)
	expect("both are there", "next", "first", 2)
	replace(t, ca, nextCert)
	expect("other authorities", "next", "next", 3)
	if err := os.WriteFile(ca, []byte("-----BEGIN CERT"), 0o600); err != nil {
		t.Fatal(err)
	}
	expect("half written", "next", "next", 4)
	if err := os.Remove(cert); err != nil {
		t.Fatal(err)
	}
	expect("gone", "next", "next", 5)
	replace(t, cert, firstCert, key, firstKey, ca, firstCert)
	expect("mended", "first", "first", 6)
}

func TestAPeerThatIsNotOnTheListIsRefused(t *testing.T) {
	cert, key := selfSigned(t, "proxy")
	for peers, taken := range map[string]bool{"proxy": true, "other": false} {
		config, err := serverTLS(&Config{TLSCert: cert, TLSKey: key, TLSClientCA: cert, TrustedPeers: list{peers}}, discard)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := shake(t, config, cert, key); (err == nil) != taken {
			t.Errorf("%s: %v", peers, err)
		}
	}
}

func TestTheUpstreamsFilesAreReadAgain(t *testing.T) {
	firstCert, firstKey := selfSigned(t, "first")
	folder := t.TempDir()
	cert, key, ca := folder+"/cert", folder+"/key", folder+"/ca"
	replace(t, cert, firstCert, key, firstKey, ca, firstCert)
	nextCert, nextKey := selfSigned(t, "next")
	upstreams := map[string]string{}
	for _, files := range [][2]string{{firstCert, firstKey}, {nextCert, nextKey}} {
		pair, err := tls.LoadX509KeyPair(files[0], files[1])
		authorities, err2 := readCertificates(files[0])
		if err := errors.Join(err, err2); err != nil {
			t.Fatal(err)
		}
		upstreams[files[0]] = serveStub(t, &stub{job: &jobsv1.Job{}}, grpc.Creds(credentials.NewTLS(&tls.Config{
			Certificates: []tls.Certificate{pair}, ClientCAs: authorities, ClientAuth: tls.RequireAndVerifyClientCert,
		})))
	}
	secured, err := upstreamCredentials(&Config{UpstreamCA: ca, UpstreamCert: cert, UpstreamKey: key}, discard)
	if err != nil {
		t.Fatal(err)
	}
	expect := func(step, takes string) {
		t.Helper()
		for name, address := range upstreams {
			connection, err := grpc.NewClient(address, grpc.WithTransportCredentials(secured))
			if err != nil {
				t.Fatal(err)
			}
			_, err = jobsv1.NewJobServiceClient(connection).GetJob(t.Context(), &jobsv1.GetJobRequest{})
			connection.Close()
			if (err == nil) != (name == takes) {
				t.Errorf("%s: %v", step, err)
			}
		}
	}

	expect("at first", firstCert)
	replace(t, ca, nextCert, key, nextKey)
	expect("the certificate is missing yet", firstCert)
	replace(t, cert, nextCert)
	expect("all are there", nextCert)
}
