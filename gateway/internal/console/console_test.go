package console

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/jobs-grpc/jobs-grpc/gateway/internal/config"
)

func load(t *testing.T, args ...string) *config.Config {
	t.Helper()
	c, err := config.Load(args, func(string) (string, bool) { return "", false })
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func get(t *testing.T, c *config.Config, path, host string) *httptest.ResponseRecorder {
	t.Helper()
	handler, ok := New(c)[path]
	if !ok {
		t.Fatalf("no handler for %s", path)
	}
	r := httptest.NewRequest(http.MethodGet, path, nil)
	r.Host = host
	w := httptest.NewRecorder()
	handler(w, r, nil)
	return w
}

func TestConsoleIsServedOnlyWhereCallersAreKnown(t *testing.T) {
	for _, test := range []struct {
		args   []string
		served bool
	}{
		{nil, true},
		{[]string{"--console=off"}, false},
		{[]string{"--listen=0.0.0.0:8080", "--insecure-metadata", "--allowed-hosts=*"}, false},
		{[]string{"--listen=0.0.0.0:8080", "--require-token", "--tls-terminated-by-proxy"}, true},
		{[]string{
			"--listen=0.0.0.0:8080", "--tls-cert=c", "--tls-key=k", "--tls-client-ca=a", "--trusted-peers=proxy",
		}, true},
	} {
		if got := len(New(load(t, test.args...))) > 0; got != test.served {
			t.Errorf("%v: served is %v, want %v", test.args, got, test.served)
		}
	}
}

func TestPolicyAllowsOnlyOwnFilesAndTheProvider(t *testing.T) {
	policy := get(t, load(t), "/console", "localhost").Header().Get("Content-Security-Policy")
	want := "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
		"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
	if policy != want {
		t.Errorf("policy is %s", policy)
	}
	c := load(t, "--require-token", "--oidc-issuer=https://login.example.com/realms/ops",
		"--oidc-token-origin=https://token.example.com", "--oidc-client-id=console")
	policy = get(t, c, "/console/jobs", "localhost").Header().Get("Content-Security-Policy")
	if !strings.Contains(policy, "connect-src 'self' https://login.example.com https://token.example.com;") {
		t.Errorf("policy is %s", policy)
	}
}

func TestConfigLetsThePersonChooseTheCallerOnlyOnThisMachine(t *testing.T) {
	for host, want := range map[string]bool{
		"localhost:8080": true, "127.0.0.1:8080": true, "[::1]:8080": true, "ops.example.com": false,
	} {
		var got settings
		if err := json.Unmarshal(get(t, load(t), "/console/config.json", host).Body.Bytes(), &got); err != nil {
			t.Fatal(err)
		}
		if got.ChooseCaller != want || got.RequireToken || got.OIDC != nil {
			t.Errorf("%s: %+v", host, got)
		}
	}
	var got settings
	body := get(t, load(t, "--require-token"), "/console/config.json", "localhost").Body.Bytes()
	if err := json.Unmarshal(body, &got); err != nil || got.ChooseCaller || !got.RequireToken {
		t.Errorf("with tokens: %+v, %v", got, err)
	}
}

func TestPagesLoadOnlyFilesOfTheBuild(t *testing.T) {
	c := load(t)
	page := get(t, c, "/console", "localhost").Body.String()
	for _, part := range strings.Split(page, `"`) {
		if strings.HasPrefix(part, "/console/") {
			if w := get(t, c, part, "localhost"); w.Code != http.StatusOK || w.Body.Len() == 0 {
				t.Errorf("%s: status %d", part, w.Code)
			}
		}
	}
	if w := get(t, c, "/console/{rest...}", "localhost"); w.Code != http.StatusNotFound || w.Body.String() != page {
		t.Errorf("an unknown path: status %d", w.Code)
	}
	if strings.Contains(page, "<script>") || strings.Contains(page, "style=") {
		t.Error("the page has an inline script or style")
	}
}
