// Command bench compares two call rates in one run on one machine: a jobs-grpc server over gRPC,
// and the gateway over HTTP in front of a stub that repeats the responses of that server. It
// shows whether the gateway can become the bottleneck. `make bench-gateway` runs it.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	jobsv1 "github.com/jobs-grpc/jobs-grpc/gateway/gen/fleet/jobs/v1"
)

var (
	server      = flag.String("server", "", "`HOST:PORT` of the server; its tenant \"bench\" must have a device \"d00001\"")
	gateway     = flag.String("gateway", "bin/jobs-gateway", "the gateway's `BINARY`")
	duration    = flag.Duration("duration", 5*time.Second, "duration of each measurement, after a warm-up of a fifth of it")
	concurrency = flag.Int("concurrency", 32, "number of concurrent calls")
	minRatio    = flag.Float64("min-ratio", 3, "fail if the rate of the gateway divided by the rate of the server is lower")
)

// serverConnections is the number of gRPC connections to the server.
const serverConnections = 4

// benchCall is one call of the service and the same call over REST.
type benchCall struct {
	name         string
	grpc         func(ctx context.Context, client jobsv1.JobServiceClient) error
	method, path string
	body         string
}

func main() {
	log.SetFlags(0)
	flag.Parse()
	ctx := metadata.AppendToOutgoingContext(context.Background(), "x-tenant-id", "bench")
	clients := connect(*server, serverConnections)
	url, stop := startGateway(*gateway, serveStub(recordResponses(ctx, clients[0])))
	defer stop()

	fmt.Printf("%-10s %16s %18s %8s\n", "call", "server, calls/s", "gateway, calls/s", "ratio")
	failed := false
	for _, call := range benchCalls {
		serverRate := measure(func(worker int) error { return call.grpc(ctx, clients[worker%len(clients)]) })
		gatewayRate := measure(func(int) error { return call.rest(url) })
		fmt.Printf("%-10s %16.0f %18.0f %7.1f×\n", call.name, serverRate, gatewayRate, gatewayRate/serverRate)
		failed = failed || gatewayRate < *minRatio*serverRate
	}
	if failed {
		stop()
		log.Fatalf("the gateway is less than %g times as fast as the server", *minRatio)
	}
}

func connect(address string, count int) []jobsv1.JobServiceClient {
	clients := make([]jobsv1.JobServiceClient, count)
	for i := range clients {
		conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			log.Fatal(err)
		}
		clients[i] = jobsv1.NewJobServiceClient(conn)
	}
	return clients
}

// measure runs call in *concurrency workers, each without pause, and returns the calls per
// second after the warm-up. It exits at the first error.
func measure(call func(worker int) error) float64 {
	var count atomic.Int64
	var workers sync.WaitGroup
	var counting atomic.Bool
	warmUpEnd := time.Now().Add(*duration / 5)
	end := warmUpEnd.Add(*duration)
	for worker := range *concurrency {
		workers.Go(func() {
			for time.Now().Before(end) {
				if err := call(worker); err != nil {
					log.Fatal(err)
				}
				if counting.Load() {
					count.Add(1)
				}
			}
		})
	}
	time.Sleep(time.Until(warmUpEnd))
	counting.Store(true)
	started := time.Now()
	workers.Wait()
	return float64(count.Load()) / time.Since(started).Seconds()
}

var httpClient = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 1000, DisableCompression: true}}

func (c *benchCall) rest(url string) error {
	request, err := http.NewRequest(c.method, url+c.path, strings.NewReader(c.body))
	if err != nil {
		return err
	}
	request.Header.Set("X-Tenant-Id", "bench")
	if c.body != "" {
		request.Header.Set("Content-Type", "application/json")
	}
	response, err := httpClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode/100 != 2 {
		err = fmt.Errorf("%s %s: %s", c.method, c.path, body)
	}
	return err
}
