package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/exec"
	"syscall"

	"google.golang.org/grpc"

	jobsv1 "github.com/jobs-grpc/jobs-grpc/gateway/gen/fleet/jobs/v1"
)

var calls = []call{
	{
		name: "CreateJob",
		grpc: func(ctx context.Context, client jobsv1.JobServiceClient) error {
			_, err := client.CreateJob(ctx, create("reboot"))
			return err
		},
		method: http.MethodPost, path: "/customer/jobs",
		body: `{"document_type": "reboot", "document_params": {"delay": 5}, "target_device_id": "d00001"}`,
	},
	{
		name: "GetJob",
		grpc: func(ctx context.Context, client jobsv1.JobServiceClient) error {
			_, err := client.GetJob(ctx, &jobsv1.GetJobRequest{JobId: "job-0"})
			return err
		},
		method: http.MethodGet, path: "/customer/jobs/job-0",
	},
	{
		name: "ListJobs",
		grpc: func(ctx context.Context, client jobsv1.JobServiceClient) error {
			_, err := client.ListJobs(ctx, &jobsv1.ListJobsRequest{})
			return err
		},
		method: http.MethodGet, path: "/customer/jobs",
	},
}

func create(documentType string) *jobsv1.CreateJobRequest {
	return &jobsv1.CreateJobRequest{
		DocumentType: documentType,
		Target:       &jobsv1.CreateJobRequest_TargetDeviceId{TargetDeviceId: "d00001"},
	}
}

// stub answers what the server has answered.
type stub struct {
	jobsv1.UnimplementedJobServiceServer
	created *jobsv1.CreateJobResponse
	listed  *jobsv1.ListJobsResponse
	got     *jobsv1.GetJobResponse
}

func (s *stub) CreateJob(context.Context, *jobsv1.CreateJobRequest) (*jobsv1.CreateJobResponse, error) {
	return s.created, nil
}

func (s *stub) ListJobs(context.Context, *jobsv1.ListJobsRequest) (*jobsv1.ListJobsResponse, error) {
	return s.listed, nil
}

func (s *stub) GetJob(context.Context, *jobsv1.GetJobRequest) (*jobsv1.GetJobResponse, error) {
	return s.got, nil
}

// prepare fills a page of jobs and takes down the server's answers.
func prepare(ctx context.Context, client jobsv1.JobServiceClient) *stub {
	var s stub
	var err error
	for n := range 50 {
		request := create("reboot")
		request.JobId = fmt.Sprintf("job-%d", n)
		if s.created, err = client.CreateJob(ctx, request); err != nil {
			log.Fatal(err)
		}
	}
	if s.listed, err = client.ListJobs(ctx, &jobsv1.ListJobsRequest{}); err != nil {
		log.Fatal(err)
	}
	if s.got, err = client.GetJob(ctx, &jobsv1.GetJobRequest{JobId: "job-0"}); err != nil {
		log.Fatal(err)
	}
	return &s
}

func serve(s *stub) (address string) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	server := grpc.NewServer()
	jobsv1.RegisterJobServiceServer(server, s)
	go func() { log.Fatal(server.Serve(listener)) }()
	return listener.Addr().String()
}

// startGateway runs the binary as it is deployed: a process of its own, with its access log.
func startGateway(binary, upstream string) (url string, stop func()) {
	command := exec.Command(binary, "--listen", "127.0.0.1:0", "--upstream", upstream)
	command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	output, err := command.StderrPipe()
	if err != nil {
		log.Fatal(err)
	}
	if err := command.Start(); err != nil {
		log.Fatal(err)
	}
	lines := bufio.NewScanner(output)
	var event struct{ Msg, Address string }
	for event.Msg != "listening" && lines.Scan() {
		if err := json.Unmarshal(lines.Bytes(), &event); err != nil {
			log.Fatal(lines.Text())
		}
	}
	go func() {
		for lines.Scan() { // the log is read, as by a collector
		}
	}()
	return "http://" + event.Address, func() {
		_ = command.Process.Signal(os.Interrupt)
		_ = command.Wait()
	}
}
