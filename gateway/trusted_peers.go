package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"slices"
	"strings"
)

const spiffePrefix = "spiffe://"

// verifyTrustedPeer returns a tls.Config.VerifyConnection function that rejects clients whose
// verified certificate matches no entry of trusted.
//
// Entries match exactly. An entry with the prefix spiffe:// matches only a URI of the
// certificate, any other entry only a DNS name or the common name, as in the gRPC server.
// Otherwise a client that may choose its common name could impersonate a SPIFFE ID.
func verifyTrustedPeer(trusted stringList) func(tls.ConnectionState) error {
	return func(state tls.ConnectionState) error {
		certificate := state.PeerCertificates[0] // set: ClientAuth requires a certificate
		if slices.ContainsFunc(trusted, func(entry string) bool { return matchesEntry(certificate, entry) }) {
			return nil
		}
		return errors.New("the client certificate matches no entry of trusted-peers")
	}
}

func matchesEntry(certificate *x509.Certificate, entry string) bool {
	if !strings.HasPrefix(entry, spiffePrefix) {
		return entry == certificate.Subject.CommonName || slices.Contains(certificate.DNSNames, entry)
	}
	for _, uri := range certificate.URIs {
		if uri.String() == entry {
			return true
		}
	}
	return false
}
