package tlsconfig

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"net"
	"testing"
)

// clientNames are the names in a client certificate.
type clientNames struct {
	commonNames, dnsNames, uris []string
	ip                          net.IP
}

// certificate returns a certificate with exactly these bytes as names: x509.CreateCertificate
// would parse and rewrite URIs.
func (p clientNames) certificate(t *testing.T) *x509.Certificate {
	t.Helper()
	var names []asn1.RawValue
	add := func(tag int, value []byte) {
		names = append(names, asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: tag, Bytes: value})
	}
	for _, name := range p.dnsNames {
		add(tagDNSName, []byte(name))
	}
	for _, uri := range p.uris {
		add(tagURI, []byte(uri))
	}
	if p.ip != nil {
		add(7, p.ip.To4())
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1)}
	for _, name := range p.commonNames {
		template.Subject.ExtraNames = append(template.Subject.ExtraNames, pkix.AttributeTypeAndValue{
			Type: oidCommonName, Value: asn1.RawValue{Tag: asn1.TagUTF8String, Bytes: []byte(name)},
		})
	}
	if names != nil {
		value, err := asn1.Marshal(names)
		if err != nil {
			t.Fatal(err)
		}
		template.ExtraExtensions = []pkix.Extension{{Id: oidSubjectAltName, Value: value}}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return certificate
}

func TestVerifyTrustedPeer_MatchesExactly(t *testing.T) {
	const id = "spiffe://acme.example/proxy"
	withURI := clientNames{uris: []string{id}}
	withName := clientNames{dnsNames: []string{"proxy.acme.example"}}
	withCommonName := clientNames{commonNames: []string{"proxy"}}
	for _, c := range []struct {
		entry   string
		peer    clientNames
		trusted bool
	}{
		{id, withURI, true},
		{"proxy.acme.example", withName, true},
		{"proxy", withCommonName, true},
		{id, clientNames{uris: []string{"spiffe://other.example/a", id}}, true},
		{id, clientNames{dnsNames: []string{id}}, false},
		{id, clientNames{commonNames: []string{id}}, false},
		{id + "/", withURI, false},
		{"spiffe://acme.example", withURI, false},
		{"acme.example", withName, false},
		{"*.acme.example", withName, false},
		{"PROXY", withCommonName, false},
		{"Proxy.acme.example", withName, false},
		{"proxy", withURI, false},
		{"proxy", clientNames{}, false},
		// URIs are compared as they are written in the certificate.
		{id, clientNames{uris: []string{"SPIFFE://acme.example/proxy"}}, false},
		{id, clientNames{uris: []string{"spiffe://ACME.example/proxy"}}, false},
		{id, clientNames{uris: []string{"spiffe://acme.example/prox%79"}}, false},
		// A common name counts only without URIs and DNS names.
		{"proxy", clientNames{commonNames: []string{"proxy"}, dnsNames: []string{"other"}}, false},
		{"proxy", clientNames{commonNames: []string{"proxy"}, uris: []string{id}}, false},
		{"proxy", clientNames{commonNames: []string{"proxy"}, ip: net.IPv4(127, 0, 0, 1)}, true},
		{"proxy", clientNames{commonNames: []string{"other", "proxy"}}, false},
		{"proxy", clientNames{commonNames: []string{"proxy", "other"}}, false},
		// A NUL does not end a name.
		{"proxy", clientNames{commonNames: []string{"proxy\x00.evil.example"}}, false},
		{"proxy.acme.example", clientNames{dnsNames: []string{"proxy.acme.example\x00.evil.example"}}, false},
	} {
		certificate := c.peer.certificate(t)
		state := tls.ConnectionState{PeerCertificates: []*x509.Certificate{certificate}}
		for _, trusted := range [][]string{{c.entry}, {"other.name", c.entry}} {
			if err := verifyTrustedPeer(trusted)(state); (err == nil) != c.trusted {
				t.Errorf("%v, %+v: %v", trusted, c.peer, err)
			}
		}
	}
}
