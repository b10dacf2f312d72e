// Need: limits of unknown callers. Attacks: gateway-bodies-with-junk-token, gateway-watches-with-junk-tokens.

package limits

import (
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// ipv6NetworkBits is the prefix length that counts as one client: providers assign a /64 or more.
const ipv6NetworkBits = 64

// ClientNetwork returns the IPv4 address or the IPv6 /64 that a request comes from. If a trusted proxy
// sends it, that is the last address of X-Forwarded-For that is not a trusted proxy: a client can write
// any addresses before it.
func ClientNetwork(r *http.Request, trustedProxies []netip.Prefix) string {
	isTrusted := func(address netip.Addr) bool {
		return slices.ContainsFunc(trustedProxies, func(p netip.Prefix) bool { return p.Contains(address) })
	}
	address := parseAddress(r.RemoteAddr)
	forwarded := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for _, text := range slices.Backward(forwarded) {
		if !isTrusted(address) {
			break
		}
		next := parseAddress(strings.TrimSpace(text))
		if !next.IsValid() {
			break
		}
		address = next
	}
	if address.Is6() {
		network, _ := address.Prefix(ipv6NetworkBits) // can't fail: the length is valid
		return network.String()
	}
	return address.String()
}

// parseAddress parses an address with or without a port. It returns the zero Addr if text is neither.
func parseAddress(text string) netip.Addr {
	address, err := netip.ParseAddr(text)
	if err != nil {
		withPort, _ := netip.ParseAddrPort(text)
		address = withPort.Addr()
	}
	return address.Unmap().WithZone("")
}
