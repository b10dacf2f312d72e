package observability

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"

	"github.com/jobs-grpc/jobs-grpc/gateway/internal/routes"
)

// logLines are the lines of an access log.
type logLines struct{ bytes.Buffer }

// handler responds with a status: at /jobs as an RPC, at /docs as a page, and elsewhere without a route.
func (l *logLines) handler(t *testing.T, status int) http.Handler {
	t.Helper()
	document := []byte(`{"paths": {"/jobs": {"get": {"operationId": "ListJobs"}}}}`)
	table, err := routes.Load(document, map[string]runtime.HandlerFunc{"/docs": nil})
	if err != nil {
		t.Fatal(err)
	}
	log := NewAccessLog(slog.New(slog.NewJSONHandler(l, nil)), nil)
	return Instrument(table, NewMetrics(), nil, log, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
	}))
}

func (l *logLines) take(t *testing.T) (all []map[string]any) {
	t.Helper()
	for line := range strings.Lines(l.String()) {
		var fields map[string]any
		if err := json.Unmarshal([]byte(line), &fields); err != nil {
			t.Fatal(err)
		}
		all = append(all, fields)
	}
	l.Reset()
	return all
}

func send(handler http.Handler, path, address string) {
	request := httptest.NewRequest("GET", path, nil)
	request.RemoteAddr = address
	handler.ServeHTTP(httptest.NewRecorder(), request)
}

func TestAccessLog_CutsValues_ByTheirEscapedLength(t *testing.T) {
	for _, text := range []string{"\x01", "\xff", "x", `"`, `\`, "é", "\u2028", "\U0001f600", "\x7f", "<"} {
		log := &logLines{}
		request := httptest.NewRequest("GET", "/", nil)
		request.Method = strings.Repeat(text, 30_000)
		request.URL.Path = strings.Repeat(text, 30_000)
		request.Header.Set("User-Agent", strings.Repeat(text, 30_000))
		request.Header.Set("X-Tenant-Id", strings.Repeat(text, 30_000))
		log.handler(t, 200).ServeHTTP(httptest.NewRecorder(), request)
		written := map[string]json.RawMessage{}
		if err := json.Unmarshal(log.Bytes(), &written); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"method", "path", "user_agent", "tenant"} {
			size := len(written[name]) - len(`""`)
			if size > 256 || size < 240 || !bytes.HasSuffix(written[name], []byte(`…"`)) {
				t.Errorf("%q: %s has %d bytes: %s", text, name, size, written[name])
			}
		}
	}
	if whole := strings.Repeat("x", 256); cut(whole) != whole {
		t.Errorf("cut to %q although it fits", cut(whole))
	}
}

func TestAccessLog_CountsRefusedAndAnonymousRequests_AfterFiveLines(t *testing.T) {
	for _, c := range []struct {
		path    string
		status  int
		limited bool
	}{
		{"/jobs", 200, false}, {"/jobs", 404, false}, {"/jobs", 409, false},
		{"/jobs", 400, true}, {"/jobs", 401, true}, {"/jobs", 403, true}, {"/jobs", 429, true}, {"/jobs", 503, true},
		{"/docs", 200, true}, {"/none", 404, true}, {"/docs", 405, true},
	} {
		synctest.Test(t, func(t *testing.T) {
			log := &logLines{}
			handler := log.handler(t, c.status)
			for range 100 {
				send(handler, c.path, "192.0.2.1:1")
			}
			send(handler, c.path, "192.0.2.2:1") // another address has lines of its own
			want := 101
			if c.limited {
				want = 6
			}
			if got := len(log.take(t)); got != want {
				t.Errorf("%+v: %d lines, want %d", c, got, want)
			}
			time.Sleep(time.Second)
			synctest.Wait()
			if lines := log.take(t); !c.limited && len(lines) > 0 || c.limited && (len(lines) != 1 ||
				lines[0]["others"] != 95.0 || lines[0]["remote"] != "192.0.2.1" || lines[0]["status"] != float64(c.status)) {
				t.Errorf("%+v: %v", c, lines)
			}
			send(handler, c.path, "192.0.2.1:1")
			if got := len(log.take(t)); got != 1 {
				t.Errorf("%+v: %d lines in the next second", c, got)
			}
			time.Sleep(time.Second)
		})
	}
}

func TestAccessLog_CountsByStatus_WhenAddressesAreTooMany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &logLines{}
		handler := log.handler(t, 404)
		for n := range 1000 {
			send(handler, "/none", fmt.Sprintf("192.0.%d.%d:1", n/250, n%250))
		}
		if got := len(log.take(t)); got != maxKinds+linesPerSecond {
			t.Errorf("%d lines", got)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if lines := log.take(t); len(lines) != 1 || lines[0]["others"] != 895.0 || lines[0]["remote"] != "" {
			t.Errorf("%v", lines)
		}
	})
}
