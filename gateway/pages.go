package main

import (
	"embed"
	"io/fs"
	"net/http"
	"strings"

	"github.com/swaggest/swgui/v5/static"
	"github.com/vearutop/statigz"
)

// pageFiles are the HTML pages and the files that they load, except those of Swagger UI.
//
//go:embed pages
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

// newPagesHandler serves the page / and Swagger UI from files embedded in the binary.
func newPagesHandler() http.Handler {
	swaggerUI := http.StripPrefix("/docs/", statigz.FileServer(static.FS))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Security-Policy", pageCSP)
		page, ok := pages[r.URL.Path]
		if !ok {
			swaggerUI.ServeHTTP(w, r)
			return
		}
		content, _ := fs.ReadFile(pageFiles, "pages/"+page.name) // can't fail: the files are embedded
		w.Header().Set("Content-Type", page.contentType)
		_, _ = w.Write(content)
	})
}

// pagePaths returns the paths of the pages and of their files. Each has its own route, so that any
// other path below /docs/ is a regular 404.
func pagePaths() []string {
	var paths []string
	for path := range pages {
		paths = append(paths, path)
	}
	entries, _ := static.FS.ReadDir(".") // can't fail: the files are embedded
	for _, entry := range entries {
		paths = append(paths, "/docs/"+strings.TrimSuffix(entry.Name(), ".gz"))
	}
	return paths
}

func serveOpenAPI(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(openAPI)
}
