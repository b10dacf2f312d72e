package main

import (
	"net/http"
	"strings"

	"github.com/swaggest/swgui"
	"github.com/swaggest/swgui/v5/static"
	"github.com/swaggest/swgui/v5emb"
)

// docsCSP lets the page load scripts and styles, and send requests, only from and to its own host.
const docsCSP = "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; " +
	"img-src 'self' data:; connect-src 'self'; frame-ancestors 'none'"

// newDocsHandler serves Swagger UI from files embedded in the binary.
func newDocsHandler() http.Handler {
	ui := v5emb.NewWithConfig(swgui.Config{
		SettingsUI: map[string]string{"validatorUrl": "null", "tryItOutEnabled": "true"},
	})("Fleet Jobs API", "/openapi.json", "/docs")
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Security-Policy", docsCSP)
		ui.ServeHTTP(w, r)
	})
}

// docsAssetPaths returns the paths of the files of Swagger UI. Each file has its own route, so
// that any other path below /docs/ is a regular 404.
func docsAssetPaths() []string {
	var paths []string
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
