// Need: devices that client certificates identify. Attacks: headers that contradict the certificate, forged certificates.

package headers

import (
	"context"
	"crypto/x509"
	"net/http"
	"slices"
)

// CertificateKey is the metadata key of the certificates of a device, in DER: its own, and then those that it has sent
// with it. No request header sets it.
const CertificateKey = "x-device-certificate-bin"

// deviceHeaders are the request headers that have a meaning where certificates identify the callers. Of the others, some
// name a caller, a client address or credentials.
var deviceHeaders = []string{
	"Content-Encoding", "Content-Type", "Grpc-Timeout", "Origin", "Sec-Fetch-Site", "Traceparent", "Tracestate", "User-Agent",
}

type certificatesKey struct{}

// WithCertificates returns the request of a device with the certificates of its TLS connection, and without the headers
// that could contradict them.
func WithCertificates(r *http.Request, certificates []*x509.Certificate) *http.Request {
	encoded := make([]string, len(certificates))
	for i, certificate := range certificates {
		encoded[i] = string(certificate.Raw)
	}
	r = r.WithContext(context.WithValue(r.Context(), certificatesKey{}, encoded))
	received := r.Header
	r.Header = http.Header{}
	for name, values := range received {
		if slices.Contains(deviceHeaders, name) {
			r.Header[name] = values
		}
	}
	return r
}

// Certificates returns the certificates that identify the device, in DER. It returns nil if other credentials identify
// the caller.
func Certificates(ctx context.Context) []string {
	certificates, _ := ctx.Value(certificatesKey{}).([]string)
	return certificates
}
