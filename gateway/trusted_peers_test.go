package main

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"net/url"
	"testing"
)

func TestVerifyTrustedPeer_MatchesExactly(t *testing.T) {
	const id = "spiffe://acme.example/proxy"
	uri, err := url.Parse(id)
	if err != nil {
		t.Fatal(err)
	}
	withURI := &x509.Certificate{URIs: []*url.URL{uri}}
	withNames := &x509.Certificate{DNSNames: []string{"proxy.acme.example"}, Subject: pkix.Name{CommonName: "proxy"}}
	withIDAsName := &x509.Certificate{DNSNames: []string{id}, Subject: pkix.Name{CommonName: id}}
	for _, c := range []struct {
		entry       string
		certificate *x509.Certificate
		trusted     bool
	}{
		{id, withURI, true},
		{"proxy.acme.example", withNames, true},
		{"proxy", withNames, true},
		{id, withIDAsName, false},
		{id + "/", withURI, false},
		{"spiffe://acme.example", withURI, false},
		{"acme.example", withNames, false},
		{"*.acme.example", withNames, false},
		{"PROXY", withNames, false},
		{"proxy", withURI, false},
		{"proxy", &x509.Certificate{}, false},
	} {
		state := tls.ConnectionState{PeerCertificates: []*x509.Certificate{c.certificate}}
		for _, trusted := range []stringList{{c.entry}, {"other", c.entry}} {
			if err := verifyTrustedPeer(trusted)(state); (err == nil) != c.trusted {
				t.Errorf("%v, %v: %v", trusted, c.certificate, err)
			}
		}
	}
}
