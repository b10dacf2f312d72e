// Command bench compares two rates of calls, in one run on one machine: what a jobs
// server answers over gRPC, and what the gateway answers over HTTP when the same answers
// come from a stub. `make bench-gateway` starts what it needs.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
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
	server  = flag.String("server", "", "`HOST:PORT` of the jobs server; its tenant \"bench\" has a device \"d00001\"")
	gateway = flag.String("gateway", "bin/jobs-gateway", "the gateway's `BINARY`")
	period  = flag.Duration("period", 5*time.Second, "how long to measure each")
	workers = flag.Int("workers", 32, "calls at a time")
	atLeast = flag.Float64("at-least", 3, "fail if the gateway is not this many times as fast")
)

// call is one call of the service, and the same over REST.
type call struct {
	name         string
	grpc         func(ctx context.Context, client jobsv1.JobServiceClient) error
	method, path string
	body         string
}

func main() {
	flag.Parse()
	ctx := metadata.AppendToOutgoingContext(context.Background(), "x-tenant-id", "bench")
	clients := connect(*server, 4)
	answers := prepare(ctx, clients[0])
	url, stop := startGateway(*gateway, serve(answers))
	defer stop()

	fmt.Printf("%-10s %16s %18s %8s\n", "call", "server, calls/s", "gateway, calls/s", "ratio")
	slow := false
	for _, c := range calls {
		direct := measure(func(worker int) error { return c.grpc(ctx, clients[worker%len(clients)]) })
		through := measure(func(int) error { return c.rest(url) })
		fmt.Printf("%-10s %16.0f %18.0f %7.1f×\n", c.name, direct, through, through/direct)
		slow = slow || through < *atLeast*direct
	}
	if slow {
		stop()
		log.Fatalf("the gateway is less than %g times as fast", *atLeast)
	}
}

func connect(address string, count int) []jobsv1.JobServiceClient {
	clients := make([]jobsv1.JobServiceClient, count)
	for i := range clients {
		connection, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			log.Fatal(err)
		}
		clients[i] = jobsv1.NewJobServiceClient(connection)
	}
	return clients
}

// measure is the rate of calls that workers make back to back. Any failure ends the run.
func measure(call func(worker int) error) float64 {
	var count atomic.Int64
	var running sync.WaitGroup
	var counting atomic.Bool
	warm := time.Now().Add(*period / 5)
	end := warm.Add(*period)
	for worker := range *workers {
		running.Go(func() {
			for now := time.Now(); now.Before(end); now = time.Now() {
				if err := call(worker); err != nil {
					log.Fatal(err)
				}
				if counting.Load() {
					count.Add(1)
				}
			}
		})
	}
	time.Sleep(time.Until(warm))
	counting.Store(true)
	started := time.Now()
	running.Wait()
	return float64(count.Load()) / time.Since(started).Seconds()
}

var browser = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 1000, DisableCompression: true}}

func (c *call) rest(url string) error {
	request, err := http.NewRequest(c.method, url+c.path, strings.NewReader(c.body))
	if err != nil {
		return err
	}
	request.Header.Set("X-Tenant-Id", "bench")
	if c.body != "" {
		request.Header.Set("Content-Type", "application/json")
	}
	response, err := browser.Do(request)
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

func init() {
	log.SetFlags(0)
	log.SetOutput(os.Stderr)
}
