package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"slices"
	"strings"
)

const spiffe = "spiffe://"

// onlyPeers refuses, in the handshake, clients whose verified certificate has none of the
// list's entries, which are compared exactly.
//
// One that begins with spiffe:// is compared with the certificate's URIs only, any other
// with its DNS names and its common name, as the server does: whoever may choose a name
// must not thereby be able to choose an id.
func onlyPeers(trusted list) func(tls.ConnectionState) error {
	return func(state tls.ConnectionState) error {
		certificate := state.PeerCertificates[0] // they are required
		says := func(entry string) bool {
			if strings.HasPrefix(entry, spiffe) {
				return hasURI(certificate, entry)
			}
			return entry == certificate.Subject.CommonName || slices.Contains(certificate.DNSNames, entry)
		}
		if !slices.ContainsFunc(trusted, says) {
			return errors.New("the client certificate is not of a trusted peer")
		}
		return nil
	}
}

func hasURI(certificate *x509.Certificate, entry string) bool {
	for _, uri := range certificate.URIs {
		if uri.String() == entry {
			return true
		}
	}
	return false
}
