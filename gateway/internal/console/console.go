// Package console serves the operator console, a web page that calls the REST API. Its source is in console/.
//
// Need: operators without the command line: docs/decisions/console.md.
package console

import (
	"bytes"
	"compress/gzip"
	"embed"
	"encoding/json"
	"io/fs"
	"mime"
	"net"
	"net/http"
	"path"
	"slices"
	"strings"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"

	"github.com/jobs-grpc/jobs-grpc/gateway/internal/config"
)

// build is what `make console-build` writes.
//
//go:embed all:build
var build embed.FS

// pages are the URLs of the console. All have the same HTML, whose script shows the page.
var pages = []string{
	"/console",
	"/console/approvals",
	"/console/devices",
	"/console/devices/{device_id}",
	"/console/events",
	"/console/jobs",
	"/console/jobs/{job_id}",
	"/console/jobs/{job_id}/devices/{device_id}",
	"/console/new",
	"/console/signed-in",
}

// settings is what the console must know of the gateway: Config in session.ts.
type settings struct {
	RequireToken bool  `json:"require_token"`
	ChooseCaller bool  `json:"choose_caller"`
	OIDC         *oidc `json:"oidc"`
}

type oidc struct {
	Issuer   string `json:"issuer"`
	ClientID string `json:"client_id"`
	Scopes   string `json:"scopes"`
}

// New returns the handlers of the console by path, or none if it is off or its callers would not be known.
func New(config *config.Config) map[string]runtime.HandlerFunc {
	handlers := map[string]runtime.HandlerFunc{}
	if !config.ServesConsole() {
		return handlers
	}
	policy := contentSecurityPolicy(config)
	add := func(path string, serve http.HandlerFunc) {
		handlers[path] = func(w http.ResponseWriter, r *http.Request, _ map[string]string) {
			w.Header().Set("Content-Security-Policy", policy)
			w.Header().Set("Cross-Origin-Opener-Policy", "same-origin")
			w.Header().Set("Referrer-Policy", "no-referrer")
			serve(w, r)
		}
	}
	files, _ := fs.Sub(build, "build") // can't fail, like ReadFile
	_ = fs.WalkDir(files, ".", func(name string, entry fs.DirEntry, _ error) error {
		if entry.IsDir() {
			return nil
		}
		content, _ := fs.ReadFile(files, name)
		if name != "index.html" {
			add("/console/"+name, serveFile(http.StatusOK, name, content, "public, max-age=31536000, immutable"))
			return nil
		}
		for _, page := range pages {
			add(page, serveFile(http.StatusOK, name, content, "no-cache"))
		}
		// The script says that there is no such page.
		add("/console/{rest...}", serveFile(http.StatusNotFound, name, content, "no-cache"))
		return nil
	})
	add("/console/config.json", func(w http.ResponseWriter, r *http.Request) {
		known := settings{RequireToken: config.RequireToken, ChooseCaller: choosesCaller(config, r)}
		if config.OIDCIssuer != "" {
			known.OIDC = &oidc{config.OIDCIssuer, config.OIDCClientID, config.OIDCScopes}
		}
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		_ = json.NewEncoder(w).Encode(known)
	})
	return handlers
}

// choosesCaller reports whether a person may name the tenant and the user: only if the request came to this machine
// itself. A proxy names the caller, and browsers send it the host name of the proxy.
func choosesCaller(c *config.Config, r *http.Request) bool {
	host := r.Host
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	return !c.RequireToken && config.IsLoopback(net.JoinHostPort(strings.Trim(host, "[]"), "0"))
}

// contentSecurityPolicy allows files and requests of the gateway's own host only, and requests to the OpenID provider.
// It forbids inline scripts and styles.
func contentSecurityPolicy(config *config.Config) string {
	connect := []string{"'self'"}
	for _, origin := range config.OIDCOrigins() {
		if !slices.Contains(connect, origin) {
			connect = append(connect, origin)
		}
	}
	return "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src " +
		strings.Join(connect, " ") + "; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
}

// serveFile returns a handler for a file, which is compressed once.
func serveFile(status int, name string, content []byte, cacheControl string) http.HandlerFunc {
	contentType := mime.TypeByExtension(path.Ext(name))
	if path.Ext(name) == ".js" {
		contentType = "text/javascript; charset=utf-8" // the table of the system can differ
	}
	var compressed bytes.Buffer
	writer, _ := gzip.NewWriterLevel(&compressed, gzip.BestCompression)
	_, _ = writer.Write(content) // a Buffer does not fail
	_ = writer.Close()
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", contentType)
		w.Header().Set("Cache-Control", cacheControl)
		w.Header().Set("Vary", "Accept-Encoding")
		if strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
			w.Header().Set("Content-Encoding", "gzip")
			w.WriteHeader(status)
			_, _ = w.Write(compressed.Bytes())
			return
		}
		w.WriteHeader(status)
		_, _ = w.Write(content)
	}
}
