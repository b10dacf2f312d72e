package observability

import (
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// Metrics holds the Prometheus metrics of the gateway.
type Metrics struct {
	Registry         *prometheus.Registry
	requestDuration  *prometheus.HistogramVec
	requestsInFlight prometheus.Gauge
}

func NewMetrics() *Metrics {
	m := &Metrics{
		Registry: prometheus.NewRegistry(),
		requestDuration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "jobs_gateway_request_duration_seconds",
			Help:    "Time from the request headers to the end of the response.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
		}, []string{"method", "route", "status"}),
		requestsInFlight: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "jobs_gateway_requests_in_flight",
			Help: "Number of requests in flight.",
		}),
	}
	m.Registry.MustRegister(m.requestDuration, m.requestsInFlight, collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

func (m *Metrics) observe(method, route string, status int, duration time.Duration) {
	m.requestDuration.WithLabelValues(methodLabel(method), route, strconv.Itoa(status)).Observe(duration.Seconds())
}

// methodLabel maps unknown methods to one label: a client can send any word as the method.
func methodLabel(method string) string {
	switch method {
	case http.MethodGet, http.MethodPost, http.MethodDelete, http.MethodHead, http.MethodOptions, http.MethodPut, http.MethodPatch:
		return method
	}
	return "other"
}
