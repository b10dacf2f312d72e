package main

import (
	"context"
	"net/http"

	jobsv1 "github.com/jobs-grpc/jobs-grpc/gateway/gen/fleet/jobs/v1"
)

// benchCalls are the calls to measure.
var benchCalls = []benchCall{
	{
		name: "CreateJob",
		grpc: func(ctx context.Context, client jobsv1.JobServiceClient) error {
			_, err := client.CreateJob(ctx, newCreateRequest())
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

func newCreateRequest() *jobsv1.CreateJobRequest {
	return &jobsv1.CreateJobRequest{
		DocumentType: "reboot",
		Target:       &jobsv1.CreateJobRequest_TargetDeviceId{TargetDeviceId: "d00001"},
	}
}
