// A device that polls for its executions and carries them out, until it is interrupted.
//
//	buf generate    # once; needs protoc-gen-go and protoc-gen-go-grpc, see go.mod
//	go run . 127.0.0.1:50051 demo device-0003
package main

import (
	"context"
	"fmt"
	"log"
	"math/rand/v2"
	"os"
	"os/signal"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	jobsv1 "example.com/device-agent/gen/fleet/jobs/v1"
)

// gRPC repeats calls while the server is unavailable. Each of these is safe to repeat: a start returns
// the execution that it has started, and a report that names its attempt has no second effect.
const serviceConfig = `{"methodConfig": [{
	"name": [{"service": "fleet.jobs.v1.DeviceJobService"}],
	"retryPolicy": {
		"maxAttempts": 5, "initialBackoff": "0.2s", "maxBackoff": "5s", "backoffMultiplier": 2,
		"retryableStatusCodes": ["UNAVAILABLE", "CANCELLED"]
	}
}]}`

const callTimeout = 30 * time.Second

// maxJitter is added to a delay that the server asks for: it asks all devices for the same.
const maxJitter = 5 * time.Second

func main() {
	if len(os.Args) != 4 {
		log.Fatal("usage: device-agent SERVER TENANT DEVICE")
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	connection, err := grpc.NewClient(
		os.Args[1],
		// For a server on another machine: credentials.NewTLS(&tls.Config{RootCAs: …}), and a token with
		// grpc.WithPerRPCCredentials instead of the metadata below.
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultServiceConfig(serviceConfig),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second}),
	)
	if err != nil {
		log.Fatal(err)
	}
	defer connection.Close()
	ctx = metadata.AppendToOutgoingContext(ctx, "x-tenant-id", os.Args[2], "x-device-id", os.Args[3])
	if err := poll(ctx, jobsv1.NewDeviceJobServiceClient(connection)); ctx.Err() == nil {
		log.Fatal(err)
	}
}

// poll carries out executions. If none is pending, it waits for the poll_after of the server.
func poll(ctx context.Context, device jobsv1.DeviceJobServiceClient) error {
	wait := time.Minute
	for {
		call, cancel := context.WithTimeout(ctx, callTimeout)
		next, err := device.StartNextExecution(call, &jobsv1.StartNextExecutionRequest{})
		cancel()
		switch {
		case err == nil && next.Execution != nil:
			if err = carryOut(ctx, device, next.Execution); err == nil {
				continue
			}
		case err == nil:
			wait = next.PollAfter.AsDuration()
		}
		delay := wait
		switch status.Code(err) {
		case codes.OK:
		case codes.Unavailable, codes.DeadlineExceeded, codes.ResourceExhausted:
			// Jitter, so that devices do not all return at once after an outage.
			delay = time.Duration(float64(wait) * (0.5 + rand.Float64()))
			if asked := retryDelay(err); asked > 0 {
				delay = asked + rand.N(maxJitter)
			}
			log.Print(err)
		default:
			return err
		}
		select {
		case <-time.After(delay):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// retryDelay returns the delay that the server asks for before the call is made again; 0 if it asks for none.
func retryDelay(err error) time.Duration {
	for _, detail := range status.Convert(err).Details() {
		if info, ok := detail.(*errdetails.RetryInfo); ok {
			return info.RetryDelay.AsDuration()
		}
	}
	return 0
}

// carryOut does what the document asks for, and reports the result.
func carryOut(ctx context.Context, device jobsv1.DeviceJobServiceClient, execution *jobsv1.DeviceExecution) error {
	fmt.Printf("%s: %s\n", execution.JobId, execution.DocumentType)
	report := &jobsv1.UpdateExecutionRequest{
		JobId:           execution.JobId,
		ExecutionNumber: &execution.ExecutionNumber,
		Status:          jobsv1.JobExecution_SUCCEEDED,
	}
	if execution.DocumentType != "reboot" {
		report.Status, report.FailureCode = jobsv1.JobExecution_REJECTED, "UNKNOWN_DOCUMENT_TYPE"
	} else if err := reboot(); err != nil {
		report.Status, report.FailureCode = jobsv1.JobExecution_FAILED, "REBOOT"
	}
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, err := device.UpdateExecution(call, report)
	switch status.Code(err) {
	case codes.FailedPrecondition, codes.Aborted, codes.NotFound:
		log.Printf("%s was ended by the server", execution.JobId)
		return nil
	}
	return err
}

// reboot stands for the work of your device.
func reboot() error { return nil }
