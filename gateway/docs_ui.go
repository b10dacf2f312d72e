package main

import (
	"net/http"
	"strings"

	"github.com/swaggest/swgui"
	"github.com/swaggest/swgui/v5/static"
	"github.com/swaggest/swgui/v5emb"
)

// The page runs scripts of its own host only and calls nothing but it.
const docsPolicy = "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; " +
	"img-src 'self' data:; connect-src 'self'; frame-ancestors 'none'"

// docsPage is Swagger UI, served from this binary.
func docsPage() http.Handler {
	ui := v5emb.NewWithConfig(swgui.Config{
		SettingsUI: map[string]string{"validatorUrl": "null", "tryItOutEnabled": "true"},
	})("Fleet Jobs API", "/openapi.json", "/docs")
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Security-Policy", docsPolicy)
		ui.ServeHTTP(w, r)
	})
}

// docsAssets are the paths of the page's files; any other is a 404 like all others.
func docsAssets() []string {
	var paths []string
	entries, _ := static.FS.ReadDir(".") // embedded: it can't fail
	for _, entry := range entries {
		paths = append(paths, "/docs/"+strings.TrimSuffix(entry.Name(), ".gz"))
	}
	return paths
}

func serveOpenAPI(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(openAPI)
}
