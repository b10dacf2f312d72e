package main

import (
	"context"
	"fmt"
	"log"
	"net"

	"google.golang.org/grpc"

	jobsv1 "github.com/jobs-grpc/jobs-grpc/gateway/gen/fleet/jobs/v1"
)

// stub is a JobService that returns recorded responses.
type stub struct {
	jobsv1.UnimplementedJobServiceServer
	createResponse *jobsv1.CreateJobResponse
	listResponse   *jobsv1.ListJobsResponse
	getResponse    *jobsv1.GetJobResponse
	caller         *jobsv1.GetCallerResponse
}

func (s *stub) CreateJob(context.Context, *jobsv1.CreateJobRequest) (*jobsv1.CreateJobResponse, error) {
	return s.createResponse, nil
}

func (s *stub) ListJobs(context.Context, *jobsv1.ListJobsRequest) (*jobsv1.ListJobsResponse, error) {
	return s.listResponse, nil
}

func (s *stub) GetJob(context.Context, *jobsv1.GetJobRequest) (*jobsv1.GetJobResponse, error) {
	return s.getResponse, nil
}

// GetCaller is what the gateway calls to learn who calls it.
func (s *stub) GetCaller(context.Context, *jobsv1.GetCallerRequest) (*jobsv1.GetCallerResponse, error) {
	return s.caller, nil
}

// recordResponses creates a page of jobs on the server and returns a stub with its responses.
func recordResponses(ctx context.Context, client jobsv1.JobServiceClient) *stub {
	var s stub
	var err error
	for n := range 50 {
		request := newCreateRequest()
		request.JobId = fmt.Sprintf("job-%d", n)
		if s.createResponse, err = client.CreateJob(ctx, request); err != nil {
			log.Fatal(err)
		}
	}
	if s.listResponse, err = client.ListJobs(ctx, &jobsv1.ListJobsRequest{}); err != nil {
		log.Fatal(err)
	}
	if s.getResponse, err = client.GetJob(ctx, &jobsv1.GetJobRequest{JobId: "job-0"}); err != nil {
		log.Fatal(err)
	}
	if s.caller, err = client.GetCaller(ctx, &jobsv1.GetCallerRequest{}); err != nil {
		log.Fatal(err)
	}
	return &s
}

// serveStub serves s on a free port of loopback until the process ends.
func serveStub(s *stub) (address string) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	server := grpc.NewServer()
	jobsv1.RegisterJobServiceServer(server, s)
	go func() { log.Fatal(server.Serve(listener)) }()
	return listener.Addr().String()
}
