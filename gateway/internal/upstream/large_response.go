package upstream

import (
	"context"
	"path"
	"time"

	"google.golang.org/grpc/status"

	jobsv1 "github.com/jobs-grpc/jobs-grpc/gateway/gen/fleet/jobs/v1"
	"github.com/jobs-grpc/jobs-grpc/gateway/internal/apierror"
	"github.com/jobs-grpc/jobs-grpc/gateway/internal/config"
	"github.com/jobs-grpc/jobs-grpc/gateway/internal/limits"
)

const (
	// maxJobBytes is the maximum size of a job without executions: 81 KiB of rollout and failure
	// criteria, and a typical document of the maximum size.
	maxJobBytes = 160 << 10

	// maxSummaryBytes is the maximum size of a failure summary: 100 counts with five device IDs each.
	maxSummaryBytes = 512 << 10

	// messageRetry is how long a response waits after a reservation that failed at once, because the server
	// did not accept the caller.
	messageRetry = 50 * time.Millisecond
)

// largeResponse describes a response that can be larger than one document. The zero value is any other response.
type largeResponse struct {
	bytes int64 // maximum
	// The call has an effect, so it must not fail after the server has responded.
	writes bool
}

var largeResponses = map[string]largeResponse{
	"GetJob":                {bytes: config.MaxResponseBytes},
	"ListJobs":              {bytes: config.MaxResponseBytes},
	"ListJobExecutions":     {bytes: config.MaxResponseBytes},
	"ListExecutionAttempts": {bytes: config.MaxResponseBytes},
	"ListPendingExecutions": {bytes: config.MaxResponseBytes},
	"GetFailureSummary":     {bytes: maxSummaryBytes},
	"PauseJob":              {bytes: maxJobBytes, writes: true},
	"ResumeJob":             {bytes: maxJobBytes, writes: true},
	"AdvanceJob":            {bytes: maxJobBytes, writes: true},
	"ApproveStage":          {bytes: maxJobBytes, writes: true},
	"UpdateJob":             {bytes: maxJobBytes, writes: true},
}

func (l largeResponse) reads() bool { return l.bytes > 0 && !l.writes }

// largeResponseOf describes the response to a request.
func largeResponseOf(method string, request any) largeResponse {
	if create, ok := request.(*jobsv1.CreateJobRequest); ok && create.ValidateOnly {
		return largeResponse{bytes: maxJobBytes} // only then does the response have a job
	}
	return largeResponses[path.Base(method)]
}

// reserveBeforeWrite reserves the memory of a large response before a call that has an effect. It waits,
// unless the request holds memory already: requests that hold some and wait for more could block each other.
func reserveBeforeWrite(ctx context.Context, memory *limits.RequestMemory, amount int64) *apierror.Error {
	if memory.Buffers.Held > 0 {
		return memory.Buffers.Resize(amount)
	}
	return memory.Buffers.Reserve(ctx, amount)
}

// reserveForMessage reserves the memory of the decoded message. A large response to a call that has had an
// effect waits until the deadline: other requests hold such memory only while they convert a response. Small
// ones are decoded in any case.
func reserveForMessage(ctx context.Context, memory *limits.RequestMemory, response []byte, large largeResponse) error {
	size := memory.Messages.Limits.DecodedResponseSize(response)
	for {
		e := memory.Messages.Reserve(ctx, size)
		switch {
		case e == nil || large.bytes == 0:
			return nil
		case !large.writes:
			return e
		}
		select {
		case <-ctx.Done():
			return status.FromContextError(ctx.Err()).Err()
		case <-time.After(messageRetry):
		}
	}
}
