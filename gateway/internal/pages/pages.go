// Package pages serves the HTML pages and the OpenAPI document.
//
// Need: people who read the OpenAPI document.
package pages

import (
	"bytes"
	"embed"
	"html"
	"io/fs"
	"net/http"
	"regexp"
	"strings"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"github.com/swaggest/swgui/v5/static"
	"github.com/vearutop/statigz"

	"github.com/jobs-grpc/jobs-grpc/gateway/internal/config"
)

// pageFiles are the HTML pages and the files that they load, except those of Swagger UI.
//
//go:embed files
var pageFiles embed.FS

// pages are the files of the pages by path.
var pages = map[string]struct{ name, contentType string }{
	"/":               {"index.html", "text/html; charset=utf-8"},
	"/docs":           {"docs.html", "text/html; charset=utf-8"},
	"/docs/docs.js":   {"docs.js", "text/javascript; charset=utf-8"},
	"/docs/pages.css": {"pages.css", "text/css; charset=utf-8"},
}

// pageCSP allows scripts, styles, images and requests of the gateway's own host only, and forbids inline
// scripts and styles. It allows data: images because the styles of Swagger UI contain them.
const pageCSP = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; " +
	"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// consoleLink is the line of a page that leads to the console.
var consoleLink = regexp.MustCompile(`(?m)^.*href="/console".*\n`)

// origin in index.html is replaced by the scheme and the host of the request.
var origin = []byte("{{origin}}")

// New returns the handlers of the page /, of Swagger UI, of their files and of the OpenAPI document, by path. All are
// embedded in the binary. The pages lead to the console only if it is served. Each file has its own route, so that
// any other path below /docs/ is a regular 404.
func New(openAPI []byte, config *config.Config) map[string]runtime.HandlerFunc {
	handlers := map[string]runtime.HandlerFunc{}
	add := func(path string, serve http.HandlerFunc) {
		handlers[path] = func(w http.ResponseWriter, r *http.Request, _ map[string]string) {
			w.Header().Set("Content-Security-Policy", pageCSP)
			w.Header().Set("Cross-Origin-Opener-Policy", "same-origin")
			serve(w, r)
		}
	}
	swaggerUI := http.StripPrefix("/docs/", statigz.FileServer(static.FS))
	entries, _ := static.FS.ReadDir(".") // can't fail, like ReadFile
	for _, entry := range entries {
		add("/docs/"+strings.TrimSuffix(entry.Name(), ".gz"), swaggerUI.ServeHTTP)
	}
	for path, page := range pages {
		content, _ := fs.ReadFile(pageFiles, "files/"+page.name)
		if !config.ServesConsole() {
			content = consoleLink.ReplaceAll(content, nil)
		}
		add(path, func(w http.ResponseWriter, r *http.Request) {
			scheme := "http://"
			if r.TLS != nil || config.TLSTerminatedByProxy {
				scheme = "https://"
			}
			w.Header().Set("Content-Type", page.contentType)
			_, _ = w.Write(bytes.ReplaceAll(content, origin, []byte(html.EscapeString(scheme+r.Host))))
		})
	}
	handlers["/openapi.json"] = func(w http.ResponseWriter, _ *http.Request, _ map[string]string) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(openAPI)
	}
	return handlers
}
