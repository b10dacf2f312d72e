// Need: operators, whose proxies authenticate by certificates. The server has the same rule.

package tlsconfig

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"slices"
	"strings"
)

var (
	oidCommonName     = asn1.ObjectIdentifier{2, 5, 4, 3}
	oidSubjectAltName = asn1.ObjectIdentifier{2, 5, 29, 17}
)

// Tags of the subject alternative names that count, from RFC 5280, section 4.2.1.6.
const (
	tagDNSName = 2
	tagURI     = 6
)

const spiffePrefix = "spiffe://"

// verifyTrustedPeer returns a tls.Config.VerifyConnection function that rejects clients whose
// verified certificate matches no entry of trusted.
//
// Entries match byte by byte. An entry with the prefix spiffe:// matches a URI of the certificate.
// Any other entry matches a DNS name, or the common name of a certificate that has one common
// name and neither URIs nor DNS names. The gRPC server has the same rule.
func verifyTrustedPeer(trusted []string) func(tls.ConnectionState) error {
	return func(state tls.ConnectionState) error {
		uris, names := peerNames(state.PeerCertificates[0]) // set: ClientAuth requires a certificate
		for _, entry := range trusted {
			candidates := names
			if strings.HasPrefix(entry, spiffePrefix) {
				candidates = uris
			}
			if slices.Contains(candidates, entry) {
				return nil
			}
		}
		return errors.New("the client certificate matches no entry of trusted-peers")
	}
}

// peerNames returns the URIs of a certificate, and its DNS names or its common name. It reads
// them from the bytes of the certificate, because x509.Certificate.URIs has the scheme in lower case.
// crypto/x509 rejects URIs with control characters.
func peerNames(certificate *x509.Certificate) (uris, names []string) {
	for _, extension := range certificate.Extensions {
		var all []asn1.RawValue
		if !extension.Id.Equal(oidSubjectAltName) {
			continue
		}
		if _, err := asn1.Unmarshal(extension.Value, &all); err != nil {
			return nil, nil // can't happen: crypto/x509 has parsed it
		}
		for _, name := range all {
			switch name.Tag {
			case tagDNSName:
				names = append(names, string(name.Bytes))
			case tagURI:
				uris = append(uris, string(name.Bytes))
			}
		}
	}
	if len(uris)+len(names) > 0 {
		return uris, names
	}
	for _, attribute := range certificate.Subject.Names {
		if text, ok := attribute.Value.(string); ok && attribute.Type.Equal(oidCommonName) {
			names = append(names, text)
		}
	}
	if len(names) > 1 {
		return nil, nil
	}
	return nil, names
}
