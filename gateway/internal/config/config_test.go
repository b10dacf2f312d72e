package config

import (
	"strings"
	"testing"
	"time"
)

func TestConfig_RejectsTrustedProxiesThatAreNotNetworks(t *testing.T) {
	for _, value := range []string{"proxy.example", "10.0.0.0/33", "10.0.0.1:80"} {
		_, err := Load([]string{"--trusted-proxies", value}, func(string) (string, bool) { return "", false })
		if err == nil {
			t.Errorf("%s is accepted", value)
		}
	}
}

func TestConfig_RejectsOriginsThatNoBrowserSends(t *testing.T) {
	for origin, want := range map[string]bool{
		"https://ops.example.com":      false,
		"https://ops.example.com:8443": false,
		"http://[::1]:3000":            false,
		"https://*.example.com":        true,
		"https://Ops.example.com":      true,
		"https://ops.example.com:443":  true,
		"http://ops.example.com:80":    true,
		"null":                         true,
	} {
		if got := isInvalidOrigin(origin); got != want {
			t.Errorf("%s: invalid %v", origin, got)
		}
	}
}

func TestConfig_RejectsBudgetsThatAreTooSmall(t *testing.T) {
	for name, value := range map[string]string{
		"MAX_BUFFERED_BYTES": "33554431", "MAX_BODY_BYTES": "10000000", "MAX_REQUESTS_IN_FLIGHT": "0",
		"MAX_CONNECTIONS": "0", "UPSTREAM_CONNECTIONS": "0",
	} {
		_, err := Load(nil, func(n string) (string, bool) { return value, n == envPrefix+name })
		if err == nil {
			t.Errorf("%s=%s is accepted", name, value)
		}
	}
}

func TestConfig_NamesTheLimitThatIsNotPositive(t *testing.T) {
	_, err := Load([]string{"--max-watches", "0"}, func(string) (string, bool) { return "", false })
	if err == nil || err.Error() != "max-watches must be greater than 0" {
		t.Errorf("%v", err)
	}
}

func TestConfig_ReadsDurations(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"0": 0, "2.5": 2500 * time.Millisecond, "86400": 24 * time.Hour, "1m30s": 90 * time.Second,
		"-1": -1, "-1s": -1, "NaN": -1, "inf": -1, "1e300": -1, "86401": -1, "25h": -1, "soon": -1, "": -1,
	} {
		c, err := Load([]string{"--shutdown-grace", text}, func(string) (string, bool) { return "", false })
		switch {
		case want < 0 && (err == nil || !strings.Contains(err.Error(), "must be 0 to 86400 seconds")):
			t.Errorf("%q: %v", text, err)
		case want >= 0 && (err != nil || c.ShutdownGrace != want):
			t.Errorf("%q: %v, want %v", text, err, want)
		}
	}
}
