package main

import (
	"net/http"

	"google.golang.org/grpc/metadata"

	jobsv1 "github.com/jobs-grpc/jobs-grpc/gateway/gen/fleet/jobs/v1"
)

// newCallerCheck returns a function that returns an error if the server does not accept the
// credentials of a request. It costs a call, so only large bodies are checked.
//
// The call is a GetJob without a job_id. The server authenticates and authorizes the caller, and
// then rejects the call without a query.
func newCallerCheck(upstream *upstream, budgets *memoryBudgets) func(*http.Request) *apiError {
	jobs := jobsv1.NewJobServiceClient(upstream)
	return func(r *http.Request) *apiError {
		ctx := withRequestMemory(r.Context(), newRequestMemory(budgets, r.Header))
		_, err := jobs.GetJob(metadata.NewOutgoingContext(ctx, forwardedMetadata(r)), &jobsv1.GetJobRequest{})
		if err == nil {
			return nil
		}
		e, _ := convertError(resetAsUnavailable(r.Context(), err))
		// The caller may have the role for its call, although it lacks the one for GetJob.
		if e.Reason == "INVALID_FIELD" || e.Reason == "ROLE_REQUIRED" {
			return nil
		}
		return e
	}
}

// forwardedMetadata returns the headers of a request that are forwarded.
func forwardedMetadata(r *http.Request) metadata.MD {
	forwarded := metadata.MD{}
	for _, name := range allowedHeaders {
		if values := r.Header.Values(name); len(values) > 0 {
			forwarded[name] = values
		}
	}
	return forwarded
}
