package limits

import (
	"net/http/httptest"
	"testing"

	"github.com/jobs-grpc/jobs-grpc/gateway/internal/gatewaytest"
)

func TestClientNetwork_IsTheLastAddressThatIsNotOfATrustedProxy(t *testing.T) {
	config := gatewaytest.LoadTestConfig(t, map[string]string{
		"JOBS_GATEWAY_TRUSTED_PROXIES": "10.0.0.0/8, 192.0.2.7,2001:db8:aaaa::/48",
	})
	for _, c := range []struct {
		remote    string
		forwarded []string
		want      string
	}{
		{"198.51.100.1:1234", nil, "198.51.100.1"},
		{"198.51.100.1:1234", []string{"203.0.113.9"}, "198.51.100.1"}, // not a trusted proxy
		{"[2001:db8:1:2:3::4]:1234", nil, "2001:db8:1:2::/64"},
		{"[::ffff:198.51.100.1]:1234", nil, "198.51.100.1"},
		{"[fe80::1%eth0]:1234", nil, "fe80::/64"},
		{"10.1.2.3:1234", []string{"203.0.113.9"}, "203.0.113.9"},
		{"192.0.2.7:1234", []string{"203.0.113.9"}, "203.0.113.9"},
		{"192.0.2.8:1234", []string{"203.0.113.9"}, "192.0.2.8"},
		{"10.1.2.3:1234", []string{"made-up, 203.0.113.9"}, "203.0.113.9"},
		{"10.1.2.3:1234", []string{"192.0.2.99, 203.0.113.9, 10.4.5.6"}, "203.0.113.9"}, // two proxies
		{"10.1.2.3:1234", []string{"192.0.2.99", "203.0.113.9"}, "203.0.113.9"},
		{"10.1.2.3:1234", []string{"203.0.113.9:4711"}, "203.0.113.9"},
		{"10.1.2.3:1234", []string{"[2001:db8:1:2:3::4]:80"}, "2001:db8:1:2::/64"},
		{"[2001:db8:aaaa::1]:1234", []string{"2001:db8:1:2:3::4"}, "2001:db8:1:2::/64"},
		{"10.1.2.3:1234", nil, "10.1.2.3"},
		{"10.1.2.3:1234", []string{"10.4.5.6"}, "10.4.5.6"},
		{"10.1.2.3:1234", []string{"203.0.113.9, unknown"}, "10.1.2.3"},
	} {
		request := httptest.NewRequest("GET", "/", nil)
		request.RemoteAddr = c.remote
		request.Header["X-Forwarded-For"] = c.forwarded
		if got := ClientNetwork(request, config.TrustedProxies); got != c.want {
			t.Errorf("%s %q: %s, want %s", c.remote, c.forwarded, got, c.want)
		}
	}
}
