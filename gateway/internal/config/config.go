// Package config reads the settings from flags and the environment.
//
// Need: operators. It rejects settings under which any client could claim any tenant.
package config

import (
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"
)

const envPrefix = "JOBS_GATEWAY_"

const maxUpstreamConnections = 1000

// MaxResponseBytes is the maximum size of a response of the server.
const MaxResponseBytes = 4 << 20

// WireFactor is the maximum size of the protobuf of a JSON body, divided by the size of the body: "1," becomes 11 bytes.
const WireFactor = 6

// Config holds the settings of the gateway.
type Config struct {
	Upstream      string
	Listen        string
	MetricsListen string
	DeviceListen  string

	RequestTimeout time.Duration
	ShutdownGrace  time.Duration

	MaxBodyBytes        int64
	MaxBufferedBytes    int64
	MaxRequestsInFlight int64
	MaxConnections      int64
	MaxWatches          int64
	MaxEventStreams     int64

	TLSCert      string
	TLSKey       string
	TLSClientCA  string
	TrustedPeers []string

	DeviceTLSCert     string
	DeviceTLSKey      string
	DeviceTLSClientCA string

	TrustedProxies []netip.Prefix

	UpstreamConnections int
	UpstreamTLS         bool
	UpstreamCA          string
	UpstreamCert        string
	UpstreamKey         string
	UpstreamServerName  string

	AllowedHosts         []string
	HSTSMaxAge           int64 // seconds
	CORSOrigins          []string
	RequireToken         bool
	TLSTerminatedByProxy bool
	InsecureMetadata     bool

	Console         bool
	OIDCIssuer      string
	OIDCTokenOrigin string
	OIDCClientID    string
	OIDCScopes      string

	LogLevel slog.Level
}

// flagSet defines the name, default and help text of every setting.
func (c *Config) flagSet() *flag.FlagSet {
	f := flag.NewFlagSet("jobs-gateway", flag.ContinueOnError)
	f.StringVar(&c.Upstream, "upstream", "127.0.0.1:50051", "gRPC server to call: `HOST:PORT`, dns:///NAME:PORT (round robin over its addresses) or unix:PATH")
	f.StringVar(&c.Listen, "listen", "127.0.0.1:8080", "`HOST:PORT` to serve the REST API on")
	f.StringVar(&c.MetricsListen, "metrics-listen", "", "`HOST:PORT` to serve Prometheus metrics on, at /metrics; empty disables metrics")
	f.StringVar(&c.DeviceListen, "device-listen", "", "`HOST:PORT` to serve the routes of devices on, /device, where client certificates identify the devices; the upstream verifies them and must list this gateway in JOBS_DEVICE_GATEWAYS. Empty: there is none")
	// Longer than the server's JOBS_POOL_TIMEOUT and JOBS_QUERY_TIMEOUT together, so that its error reaches the client.
	durationVar(f, &c.RequestTimeout, "request-timeout", 70*time.Second, "maximum duration of a request")
	durationVar(f, &c.ShutdownGrace, "shutdown-grace", 10*time.Second, "maximum wait for requests in flight at shutdown")
	f.Int64Var(&c.MaxBodyBytes, "max-body-bytes", 256<<10, "maximum size of a request body in bytes")
	f.Int64Var(&c.MaxBufferedBytes, "max-buffered-bytes", 128<<20, "maximum memory in bytes for request bodies and responses, all requests together; at most half of it for one tenant")
	f.Int64Var(&c.MaxRequestsInFlight, "max-requests-in-flight", 2000, "maximum number of requests in flight, without streams; at most half of it for one tenant")
	f.Int64Var(&c.MaxConnections, "max-connections", 4000, "maximum number of client connections at listen, and of as many at device-listen; beyond it, the one without a request for the longest time is closed, or the new one if all have requests")
	f.Int64Var(&c.MaxWatches, "max-watches", 800, "maximum number of open watches of jobs; at most half of it for one tenant")
	f.Int64Var(&c.MaxEventStreams, "max-event-streams", 400, "maximum number of open streams of events; at most half of it for one tenant")
	f.StringVar(&c.TLSCert, "tls-cert", "", "certificate chain for HTTPS, a PEM `FILE`")
	f.StringVar(&c.TLSKey, "tls-key", "", "private key of tls-cert, a PEM `FILE`")
	f.StringVar(&c.TLSClientCA, "tls-client-ca", "", "require client certificates issued by these authorities, a PEM `FILE`")
	listVar(f, &c.TrustedPeers, asText, "trusted-peers", "accept only client certificates with one of these `NAMES`, comma-separated: SPIFFE IDs, DNS names or common names")
	f.StringVar(&c.DeviceTLSCert, "device-tls-cert", "", "certificate chain at device-listen, a PEM `FILE`; empty: tls-cert")
	f.StringVar(&c.DeviceTLSKey, "device-tls-key", "", "private key of device-tls-cert, a PEM `FILE`; empty: tls-key")
	f.StringVar(&c.DeviceTLSClientCA, "device-tls-client-ca", "", "refuse devices at device-listen in the TLS handshake unless these authorities issued their certificates, a PEM `FILE`; empty: only the upstream verifies certificates")
	listVar(f, &c.TrustedProxies, parseNetwork, "trusted-proxies", "`NETWORKS` of proxies whose X-Forwarded-For header names the client, comma-separated, such as 10.0.0.0/8. The gateway limits callers that it does not know yet by their address")
	f.IntVar(&c.UpstreamConnections, "upstream-connections", 4, "number of connections to each address of the upstream; each carries up to 100 calls at a time")
	f.BoolVar(&c.UpstreamTLS, "upstream-tls", false, "use TLS to the upstream and trust the system's certificate authorities")
	f.StringVar(&c.UpstreamCA, "upstream-ca", "", "use TLS to the upstream and trust these certificate authorities, a PEM `FILE`")
	f.StringVar(&c.UpstreamCert, "upstream-cert", "", "client certificate for the upstream, a PEM `FILE`")
	f.StringVar(&c.UpstreamKey, "upstream-key", "", "private key of upstream-cert, a PEM `FILE`")
	f.StringVar(&c.UpstreamServerName, "upstream-server-name", "", "`NAME` to expect in the upstream's certificate instead of its host name")
	listVar(f, &c.AllowedHosts, asText, "allowed-hosts", "`HOSTS` to accept in the Host header besides localhost and loopback addresses, comma-separated, without ports; * accepts any host. Empty: on a loopback listen address only localhost and loopback addresses, otherwise any host. Required with insecure-metadata beyond loopback. /healthz beyond loopback accepts any host, and the metrics ignore this list")
	f.Int64Var(&c.HSTSMaxAge, "hsts-max-age", 0, "time in `SECONDS` for which browsers use only HTTPS for the host of a response, such as 31536000 (Strict-Transport-Security); 0 sends no header")
	listVar(f, &c.CORSOrigins, asText, "cors-origins", "`ORIGINS` of web pages that may call the API, comma-separated, such as https://ops.example.com")
	f.BoolVar(&c.RequireToken, "require-token", false, "reject requests without Authorization: Bearer; the upstream must verify the tokens (JOBS_AUTH=jwt)")
	f.BoolVar(&c.TLSTerminatedByProxy, "tls-terminated-by-proxy", false, "with require-token: allow a listen address beyond loopback without TLS, because a proxy terminates TLS")
	f.BoolVar(&c.InsecureMetadata, "insecure-metadata", false, "allow a listen address beyond loopback although any client can claim any tenant")
	onOffVar(f, &c.Console, "console", true, "serve the operator console at /console: `on` or off. Served only with require-token, on a loopback listen address, or with trusted-peers")
	f.StringVar(&c.OIDCIssuer, "oidc-issuer", "", "`URL` of the OpenID provider that the console signs in with; requires require-token. Empty: the console asks for a token")
	f.StringVar(&c.OIDCTokenOrigin, "oidc-token-origin", "", "`ORIGIN` of the token endpoint of the provider; empty: that of oidc-issuer")
	f.StringVar(&c.OIDCClientID, "oidc-client-id", "", "`ID` of the console at the provider, a public client with PKCE")
	f.StringVar(&c.OIDCScopes, "oidc-scopes", "openid offline_access", "`SCOPES` that the console requests, separated by spaces")
	f.TextVar(&c.LogLevel, "log-level", slog.LevelInfo, "minimum `LEVEL` to log: DEBUG, INFO, WARN or ERROR")
	f.Usage = func() {
		fmt.Fprintf(f.Output(), "jobs-gateway serves the REST API, /customer and /device, in front of a jobs-grpc server.\n\n"+
			"Each flag can also be set in the environment: --upstream as %sUPSTREAM.\n"+
			"\"jobs-gateway health\" with the same settings exits with 0 if the gateway serves requests, otherwise with 1.\n"+
			"\"jobs-gateway --version\" prints the version.\n\n", envPrefix)
		f.PrintDefaults()
	}
	return f
}

// EnvName returns the environment variable of a flag.
func EnvName(flagName string) string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(flagName, "-", "_"))
}

// Load reads the settings from the environment and then from args, which override it,
// and validates them. Each line of the error names a setting by its flag.
func Load(args []string, lookupEnv func(string) (string, bool)) (*Config, error) {
	c := &Config{}
	f := c.flagSet()
	var errs error
	f.VisitAll(func(setting *flag.Flag) {
		name := EnvName(setting.Name)
		if value, ok := lookupEnv(name); ok && value != "" {
			if err := setting.Value.Set(value); err != nil {
				errs = errors.Join(errs, fmt.Errorf("%s=%s: %w", name, value, err))
			}
		}
	})
	if errs != nil {
		return nil, errs
	}
	if err := parseFlags(f, args); err != nil {
		return nil, err
	}
	return c, c.validate()
}

func (c *Config) validate() error {
	devices := c.DeviceListen != ""
	trustsAnyClient := !c.RequireToken && len(c.TrustedPeers) == 0 && !IsLoopback(c.Listen)
	for _, rule := range []struct {
		violated bool
		problem  string
	}{
		{c.RequestTimeout <= 0, "request-timeout must be greater than 0"},
		{c.MaxBodyBytes <= 0, "max-body-bytes must be greater than 0"},
		{c.MaxRequestsInFlight <= 0, "max-requests-in-flight must be greater than 0"},
		{c.MaxConnections <= 0, "max-connections must be greater than 0"},
		{c.MaxWatches <= 0, "max-watches must be greater than 0"},
		{c.MaxEventStreams <= 0, "max-event-streams must be greater than 0"},
		{c.HSTSMaxAge < 0, "hsts-max-age must be 0 or more"},
		{(c.TLSCert == "") != (c.TLSKey == ""), "tls-cert and tls-key must be set together"},
		{c.TLSClientCA != "" && c.TLSCert == "", "tls-client-ca requires tls-cert and tls-key"},
		{len(c.TrustedPeers) > 0 && c.TLSClientCA == "", "trusted-peers requires tls-client-ca"},
		{!devices && c.DeviceTLSCert+c.DeviceTLSKey+c.DeviceTLSClientCA != "",
			"device-tls-cert, device-tls-key and device-tls-client-ca require device-listen"},
		{(c.DeviceTLSCert == "") != (c.DeviceTLSKey == ""), "device-tls-cert and device-tls-key must be set together"},
		{devices && c.DeviceTLSCert == "" && c.TLSCert == "",
			"device-listen requires device-tls-cert and device-tls-key, or tls-cert and tls-key"},
		{devices && c.UpstreamCert == "",
			"device-listen requires upstream-cert and upstream-key: the upstream accepts the certificates of devices " +
				"only from a gateway that it knows"},
		{devices && c.DeviceListen == c.Listen && !strings.HasSuffix(c.Listen, ":0"),
			"device-listen and listen are both " + c.Listen},
		{(c.UpstreamCert == "") != (c.UpstreamKey == ""), "upstream-cert and upstream-key must be set together"},
		{c.UpstreamServerName != "" && !c.UseUpstreamTLS(), "upstream-server-name requires upstream-tls or upstream-ca"},
		{c.UpstreamConnections < 1 || c.UpstreamConnections > maxUpstreamConnections,
			fmt.Sprintf("upstream-connections=%d: must be from 1 to %d", c.UpstreamConnections, maxUpstreamConnections)},
		{c.MaxBufferedBytes < minBufferedBytes(c.MaxBodyBytes),
			fmt.Sprintf("max-buffered-bytes=%d: must be at least %d: 32 MiB and 48 times max-body-bytes",
				c.MaxBufferedBytes, minBufferedBytes(c.MaxBodyBytes))},
		{slices.ContainsFunc(c.CORSOrigins, isInvalidOrigin),
			"cors-origins=" + strings.Join(c.CORSOrigins, ",") + ": each origin must be a scheme and a host in lower case, such as " +
				"https://ops.example.com, without a path and without the default port; * is not supported"},
		{(c.OIDCIssuer == "") != (c.OIDCClientID == ""), "oidc-issuer and oidc-client-id must be set together"},
		{c.OIDCIssuer != "" && !c.RequireToken, "oidc-issuer requires require-token"},
		{slices.ContainsFunc(c.OIDCOrigins(), isInvalidOrigin),
			"oidc-issuer and oidc-token-origin must be URLs such as https://login.example.com"},
		{c.RequireToken && !c.TLSTerminatedByProxy && c.TLSCert == "" && !IsLoopback(c.Listen),
			"listen=" + c.Listen + " is not a loopback address, and without TLS tokens are sent in clear text; " +
				"set tls-cert and tls-key, or set tls-terminated-by-proxy if a proxy terminates TLS"},
		{trustsAnyClient && !c.InsecureMetadata,
			"listen=" + c.Listen + " is not a loopback address, and any client can claim any tenant; listen on " +
				"loopback behind a proxy that authenticates clients, or set require-token, or set tls-client-ca " +
				"and trusted-peers, or set insecure-metadata to accept the risk"},
		{trustsAnyClient && len(c.AllowedHosts) == 0,
			"listen=" + c.Listen + " is not a loopback address, and with insecure-metadata any web page could call the " +
				"gateway through a name of its own (DNS rebinding); set allowed-hosts to the names that clients use, such " +
				"as gateway.internal, or to * to accept the risk"},
	} {
		if rule.violated {
			return errors.New(rule.problem)
		}
	}
	return nil
}

// minBufferedBytes returns the smallest limit that serves every valid request: an eighth of it
// is what one subject has for buffers.
func minBufferedBytes(maxBodyBytes int64) int64 {
	return 8 * max(MaxResponseBytes, WireFactor*maxBodyBytes)
}

func (c *Config) UseUpstreamTLS() bool {
	return c.UpstreamTLS || c.UpstreamCA != "" || c.UpstreamCert != ""
}

// ServesConsole reports whether the console is served: only where the callers are known, or on this machine alone.
func (c *Config) ServesConsole() bool {
	return c.Console && (c.RequireToken || len(c.TrustedPeers) > 0 || IsLoopback(c.Listen))
}

// OIDCOrigins returns the origins that the console calls to sign in.
func (c *Config) OIDCOrigins() []string {
	if c.OIDCIssuer == "" {
		return nil
	}
	issuer, err := url.Parse(c.OIDCIssuer)
	if err != nil {
		return []string{c.OIDCIssuer}
	}
	origins := []string{issuer.Scheme + "://" + issuer.Host}
	if c.OIDCTokenOrigin != "" {
		origins = append(origins, c.OIDCTokenOrigin)
	}
	return origins
}

// isInvalidOrigin reports whether text lacks the form of an Origin header, such as
// https://ops.example.com. No browser would send it.
func isInvalidOrigin(text string) bool {
	u, err := url.Parse(text)
	return err != nil || u.Host == "" || strings.Contains(u.Host, "*") ||
		u.Scheme+"://"+WithoutDefaultPort(u.Scheme, strings.ToLower(u.Host)) != text
}

func IsLoopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	return err == nil && (host == "localhost" || net.ParseIP(host).IsLoopback())
}

// WithoutDefaultPort removes the port of a host if it is the default of the scheme. Browsers never send it,
// but proxies do.
func WithoutDefaultPort(scheme, host string) string {
	return strings.TrimSuffix(host, map[string]string{"http": ":80", "https": ":443"}[scheme])
}
