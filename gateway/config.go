package main

import (
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

const envPrefix = "JOBS_GATEWAY_"

// Config is what the environment and the flags say; flags win.
type Config struct {
	Upstream      string
	Listen        string
	MetricsListen string

	Timeout       time.Duration
	ShutdownGrace time.Duration
	MaxBodyBytes  int64

	TLSCert      string
	TLSKey       string
	TLSClientCA  string
	TrustedPeers list

	UpstreamTLS        bool
	UpstreamCA         string
	UpstreamCert       string
	UpstreamKey        string
	UpstreamServerName string

	CORSOrigins      list
	RequireToken     bool
	TLSInFront       bool
	InsecureMetadata bool
	LogLevel         slog.Level
}

// flags lists every setting, once: its name, default and meaning.
func (c *Config) flags() *flag.FlagSet {
	f := flag.NewFlagSet("jobs-gateway", flag.ContinueOnError)
	f.StringVar(&c.Upstream, "upstream", "127.0.0.1:50051", "the gRPC server: `HOST:PORT`, dns:///NAME:PORT (all its addresses in turn) or unix:PATH")
	f.StringVar(&c.Listen, "listen", "127.0.0.1:8080", "`HOST:PORT` to serve REST on")
	f.StringVar(&c.MetricsListen, "metrics-listen", "", "`HOST:PORT` to serve Prometheus /metrics on; none if empty")
	durationVar(f, &c.Timeout, "timeout", 30*time.Second, "a call may take at most")
	durationVar(f, &c.ShutdownGrace, "shutdown-grace", 10*time.Second, "calls in flight may go on for, at a stop")
	f.Int64Var(&c.MaxBodyBytes, "max-body-bytes", 1<<20, "a request's body may have at most")
	f.StringVar(&c.TLSCert, "tls-cert", "", "certificate chain to serve HTTPS with, a PEM `FILE`")
	f.StringVar(&c.TLSKey, "tls-key", "", "its private key, a PEM `FILE`")
	f.StringVar(&c.TLSClientCA, "tls-client-ca", "", "clients must have a certificate of these authorities, a PEM `FILE`")
	f.Var(&c.TrustedPeers, "trusted-peers", "only `CLIENTS` whose certificate has one of these, comma-separated: SPIFFE ids, DNS or common names")
	f.BoolVar(&c.UpstreamTLS, "upstream-tls", false, "speak TLS to the upstream, trusting the system's authorities")
	f.StringVar(&c.UpstreamCA, "upstream-ca", "", "speak TLS to the upstream, trusting these authorities, a PEM `FILE`")
	f.StringVar(&c.UpstreamCert, "upstream-cert", "", "certificate to show the upstream, a PEM `FILE`")
	f.StringVar(&c.UpstreamKey, "upstream-key", "", "its private key, a PEM `FILE`")
	f.StringVar(&c.UpstreamServerName, "upstream-server-name", "", "the `NAME` in the upstream's certificate, if it is not its host")
	f.Var(&c.CORSOrigins, "cors-origins", "browsers' `ORIGINS` that may call, comma-separated, e.g. https://ops.example.com")
	f.BoolVar(&c.RequireToken, "require-token", false, "callers must send Authorization: Bearer; only for an upstream with JOBS_AUTH=jwt, which verifies it")
	f.BoolVar(&c.TLSInFront, "tls-in-front", false, "with require-token: listen beyond loopback without TLS, since a proxy in front has it")
	f.BoolVar(&c.InsecureMetadata, "insecure-metadata", false, "listen beyond loopback although any caller could name any tenant")
	f.TextVar(&c.LogLevel, "log-level", slog.LevelInfo, "DEBUG, INFO, WARN or ERROR")
	f.Usage = func() {
		fmt.Fprintf(f.Output(), "Serves REST, /customer/jobs and /device/v1/jobs, in front of a jobs gRPC server.\n\n"+
			"Each flag can be given in the environment: --upstream as %sUPSTREAM.\n\n", envPrefix)
		f.PrintDefaults()
	}
	return f
}

// readConfig reads and validates everything; its errors are one line that says what to do.
func readConfig(args []string, lookup func(string) (string, bool)) (*Config, error) {
	c := &Config{}
	f := c.flags()
	var wrong error
	f.VisitAll(func(setting *flag.Flag) {
		variable := envPrefix + strings.ToUpper(strings.ReplaceAll(setting.Name, "-", "_"))
		if value, ok := lookup(variable); ok && value != "" {
			if err := setting.Value.Set(value); err != nil {
				wrong = errors.Join(wrong, fmt.Errorf("%s=%s: %w", variable, value, err))
			}
		}
	})
	if wrong != nil {
		return nil, wrong
	}
	f.SetOutput(os.Stderr)
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	if f.NArg() > 0 {
		return nil, fmt.Errorf("unexpected argument %q", f.Arg(0))
	}
	return c, c.validate()
}

func (c *Config) validate() error {
	switch {
	case (c.TLSCert == "") != (c.TLSKey == ""):
		return errors.New("tls-cert and tls-key must be set together")
	case c.TLSClientCA != "" && c.TLSCert == "":
		return errors.New("tls-client-ca needs tls-cert and tls-key")
	case len(c.TrustedPeers) > 0 && c.TLSClientCA == "":
		return errors.New("trusted-peers needs tls-client-ca")
	case (c.UpstreamCert == "") != (c.UpstreamKey == ""):
		return errors.New("upstream-cert and upstream-key must be set together")
	case c.UpstreamServerName != "" && !c.upstreamTLS():
		return errors.New("upstream-server-name needs upstream-tls or upstream-ca")
	case c.Timeout <= 0 || c.MaxBodyBytes <= 0:
		return errors.New("timeout and max-body-bytes must be more than 0")
	case slices.ContainsFunc(c.CORSOrigins, isNoOrigin):
		return fmt.Errorf("cors-origins=%s: each must be like https://ops.example.com, without a path; * is not taken", &c.CORSOrigins)
	case c.RequireToken && !c.TLSInFront && c.TLSCert == "" && !isLoopback(c.Listen):
		return fmt.Errorf("listen=%s is not loopback, and tokens would be readable on the way; set tls-cert "+
			"and tls-key, or tls-in-front behind a proxy with TLS", c.Listen)
	case !c.RequireToken && !c.InsecureMetadata && len(c.TrustedPeers) == 0 && !isLoopback(c.Listen):
		return fmt.Errorf("listen=%s is not loopback, and any caller could name any tenant; keep to "+
			"loopback behind a proxy that authenticates, demand tokens (require-token) or certificates "+
			"of certain clients (tls-client-ca and trusted-peers), or set insecure-metadata", c.Listen)
	}
	return nil
}

func (c *Config) upstreamTLS() bool {
	return c.UpstreamTLS || c.UpstreamCA != "" || c.UpstreamCert != ""
}

// isNoOrigin finds what no browser sends, and so would allow nobody.
func isNoOrigin(text string) bool {
	u, err := url.Parse(text)
	return err != nil || u.Host == "" || u.Scheme+"://"+u.Host != text
}

func isLoopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	return err == nil && (host == "localhost" || net.ParseIP(host).IsLoopback())
}

// durationVar takes seconds, as the server's settings do, or a number with a unit.
func durationVar(f *flag.FlagSet, p *time.Duration, name string, value time.Duration, usage string) {
	*p = value
	f.Func(name, fmt.Sprintf("%s, `SECONDS` or like 1m30s (default %g)", usage, value.Seconds()), func(text string) error {
		if seconds, err := strconv.ParseFloat(text, 64); err == nil {
			*p = time.Duration(seconds * float64(time.Second))
			return nil
		}
		duration, err := time.ParseDuration(text)
		*p = duration
		return err
	})
}

// list is a comma-separated flag.
type list []string

func (l *list) String() string { return strings.Join(*l, ",") }

func (l *list) Set(value string) error {
	*l = nil
	for item := range strings.SplitSeq(value, ",") {
		if item = strings.TrimSpace(item); item != "" {
			*l = append(*l, item)
		}
	}
	return nil
}
