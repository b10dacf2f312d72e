package upstream

import (
	"context"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	jobsv1 "github.com/jobs-grpc/jobs-grpc/gateway/gen/fleet/jobs/v1"
	"github.com/jobs-grpc/jobs-grpc/gateway/internal/apierror"
	"github.com/jobs-grpc/jobs-grpc/gateway/internal/gatewaytest"
	"github.com/jobs-grpc/jobs-grpc/gateway/internal/limits"
	"github.com/jobs-grpc/jobs-grpc/gateway/internal/restjson"
	"github.com/jobs-grpc/jobs-grpc/gateway/internal/routes"
)

func repeat[T any](value T, count int) (all []T) {
	for range count {
		all = append(all, value)
	}
	return all
}

// largestJob returns a job with the largest valid rollout and failure criteria.
func largestJob() *jobsv1.Job {
	const million = 1_000_000
	emoji := func(count int) string { return strings.Repeat("\U0001f600", count) }
	now, month := &timestamppb.Timestamp{Seconds: 1 << 33, Nanos: 999_999_999}, &durationpb.Duration{Seconds: 30 * 24 * 3600}
	// 100 of them have 16 KiB, and ten of the criteria 8 KiB.
	stage := &jobsv1.Stage{
		DisplayName: emoji(15), Size: &jobsv1.Stage_GroupId{GroupId: emoji(15)}, ReleasesPerMinute: proto.Int32(million),
		Gate: &jobsv1.Gate{MinSucceededPercent: proto.Int32(100), BakeTime: month, AdvanceAfter: month},
	}
	counts := &jobsv1.ExecutionCounts{
		Queued: million, InProgress: million, Succeeded: million, Failed: million, TimedOut: million, Rejected: million, Held: million,
	}
	state := &jobsv1.JobStage{
		DisplayName: emoji(15), State: jobsv1.JobStage_OPEN, TotalExecutions: million, ExecutionCounts: counts, ReleasedCount: million,
		OpenedAt: now, NextOpensAt: now, AwaitingApproval: true,
	}
	states := repeat(state, 100)
	for n := range 20 {
		states[n] = proto.Clone(state).(*jobsv1.JobStage)
		states[n].Approval = &jobsv1.StageApproval{ApprovedAt: now, ApprovedBy: strings.Repeat("u", 256), Comment: emoji(200)}
	}
	criterion := &jobsv1.FailureCriterion{
		Statuses: repeat(jobsv1.JobExecution_FAILED, 3), FailureCodes: repeat(strings.Repeat("c", 64), 12),
		Threshold: &jobsv1.FailureCriterion_Percent{Percent: 100}, MinFinished: million,
		Basis: jobsv1.FailureCriterion_FINISHED, Scope: jobsv1.FailureCriterion_STAGE, Action: jobsv1.FailureCriterion_FORCE_CANCEL,
	}
	return &jobsv1.Job{
		JobId: "a", DocumentType: "reboot", ExecutionCounts: counts,
		Rollout:         &jobsv1.Rollout{Stages: repeat(stage, 100), MaxInProgress: proto.Int32(million), Seed: emoji(128)},
		FailureCriteria: repeat(criterion, 10), Stages: states, Trip: &jobsv1.Trip{TrippedAt: now, Criterion: criterion},
	}
}

// maxJobBytes is the maximum size of a job without executions.
var maxJobBytes = maxBytes(jobsv1.MethodRules_JOB)

func largestSummary() *jobsv1.GetFailureSummaryResponse {
	return &jobsv1.GetFailureSummaryResponse{Failures: repeat(&jobsv1.FailureCount{
		Status: jobsv1.JobExecution_TIMED_OUT, FailureCode: strings.Repeat("c", 64), ExecutionCount: 1_000_000,
		DeviceIds: repeat(strings.Repeat("\U0001f600", 256), 5),
	}, 100)}
}

// largeStub responds with the largest job and summary, and counts the calls.
type largeStub struct {
	jobsv1.UnimplementedJobServiceServer
	called chan string
}

func (s *largeStub) GetFailureSummary(context.Context, *jobsv1.GetFailureSummaryRequest) (*jobsv1.GetFailureSummaryResponse, error) {
	s.called <- "GetFailureSummary"
	return largestSummary(), nil
}

func (s *largeStub) PauseJob(context.Context, *jobsv1.PauseJobRequest) (*jobsv1.PauseJobResponse, error) {
	s.called <- "PauseJob"
	return &jobsv1.PauseJobResponse{Job: largestJob()}, nil
}

// largeResponseFixture has a client of an upstream that serves a largeStub, and the memory of a caller that
// can use up its share.
type largeResponseFixture struct {
	stub   *largeStub
	jobs   jobsv1.JobServiceClient
	limits *limits.MemoryLimits
	other  *limits.RequestMemory
}

func testIdentity() *limits.Identity {
	return &limits.Identity{Caller: limits.Caller{Tenant: "acme", Subject: "user olivia"}}
}

func newLargeResponseFixture(t *testing.T) *largeResponseFixture {
	s := &largeStub{called: make(chan string, 10)}
	upstream := newTestUpstream(t, map[string]string{"JOBS_GATEWAY_UPSTREAM": gatewaytest.ServeService(t, s)})
	memory := limits.NewMemoryLimits(128 << 20)
	memory.Buffers.Wait, memory.Messages.Wait = time.Millisecond, time.Millisecond
	return &largeResponseFixture{s, jobsv1.NewJobServiceClient(upstream), memory, limits.NewRequestMemory(memory, testIdentity())}
}

func (f *largeResponseFixture) context(t *testing.T) context.Context {
	return limits.WithRequestMemory(t.Context(), limits.NewRequestMemory(f.limits, testIdentity()))
}

func TestLargeResponses_FailBeforeTheyAreRead_WhenTheLimitIsReached(t *testing.T) {
	f := newLargeResponseFixture(t)
	if e := f.other.Buffers.Resize(f.limits.Buffers.Maximum(f.other.Caller) - maxJobBytes/2); e != nil {
		t.Fatal(e)
	}
	for name, call := range map[string]func(context.Context) error{
		"GetFailureSummary": func(ctx context.Context) error {
			_, err := f.jobs.GetFailureSummary(ctx, &jobsv1.GetFailureSummaryRequest{JobId: "a"})
			return err
		},
		"PauseJob": func(ctx context.Context) error {
			_, err := f.jobs.PauseJob(ctx, &jobsv1.PauseJobRequest{JobId: "a"})
			return err
		},
	} {
		ctx := f.context(t)
		err := call(ctx)
		if err == nil || apierror.FromGRPC(t.Context(), err).Reason != "OVERLOADED" {
			t.Errorf("%s: %v", name, err)
		}
		limits.RequestMemoryFromContext(ctx).Release()
	}
	close(f.stub.called)
	for name := range f.stub.called {
		if name == "PauseJob" {
			t.Error("PauseJob had an effect although its response was refused")
		}
	}
}

func TestLargeResponses_HoldTheirSize_UntilTheyAreWritten(t *testing.T) {
	f := newLargeResponseFixture(t)
	ctx := f.context(t)
	response, err := f.jobs.PauseJob(ctx, &jobsv1.PauseJobRequest{JobId: "a"})
	if err != nil {
		t.Fatal(err)
	}
	body, err := restjson.Marshal(response.GetJob())
	if err != nil {
		t.Fatal(err)
	}
	memory := limits.RequestMemoryFromContext(ctx)
	if memory.Buffers.Held < int64(len(body)) || memory.Messages.Held < int64(proto.Size(response)) {
		t.Errorf("%d bytes of JSON hold %d and %d bytes", len(body), memory.Buffers.Held, memory.Messages.Held)
	}
	memory.Release()
	checkFree(t, f.limits.Buffers)
	checkFree(t, f.limits.Messages)
}

// The call has had an effect, so it must not fail.
func TestPause_WaitsForMemory_AfterTheServerHasResponded(t *testing.T) {
	f := newLargeResponseFixture(t)
	f.other.Messages.Reserve(t.Context(), f.limits.Messages.Maximum(f.other.Caller))
	go func() {
		<-f.stub.called
		f.other.Messages.Release()
	}()
	ctx := f.context(t)
	response, err := f.jobs.PauseJob(ctx, &jobsv1.PauseJobRequest{JobId: "a"})
	if err != nil || len(response.GetJob().GetStages()) != 100 || limits.RequestMemoryFromContext(ctx).Messages.Held == 0 {
		t.Errorf("%v, holds %d bytes", err, limits.RequestMemoryFromContext(ctx).Messages.Held)
	}
}

func TestLargeResponses_AreWithinTheirLimits(t *testing.T) {
	if size := proto.Size(largestJob()); int64(size) > maxJobBytes {
		t.Errorf("the largest job has %d bytes", size)
	}
	if size := proto.Size(largestSummary()); int64(size) > maxBytes(jobsv1.MethodRules_FAILURE_SUMMARY) {
		t.Errorf("the largest summary has %d bytes", size)
	}
}

// A method that returns a job or a list must be in largeResponses.
func TestLargeResponses_HaveEveryMethodThatReturnsAJobOrAList(t *testing.T) {
	for _, service := range []grpc.ServiceDesc{jobsv1.JobService_ServiceDesc, jobsv1.DeviceJobService_ServiceDesc} {
		for _, method := range service.Methods {
			response := routes.MessageDescriptor(method.MethodName + "Response")
			isLarge := method.MethodName != "CreateJob" && hasJobOrList(response)
			if got := largeResponseOf(method.MethodName).bytes > 0; got != isLarge {
				t.Errorf("%s: large %v, want %v", method.MethodName, got, isLarge)
			}
		}
	}
}

func hasJobOrList(response protoreflect.MessageDescriptor) bool {
	for i := range response.Fields().Len() {
		field := response.Fields().Get(i)
		// Blockers: at most one of each kind. Ended executions: at most 100, each smaller than 200 bytes.
		isPage := field.IsList() && field.Name() != "blockers" && field.Name() != "ended_executions"
		if m := field.Message(); m != nil && (isPage || m.Name() == "Job") {
			return true
		}
	}
	return false
}

// A token that expires during a call is an example.
func TestLargeResponses_AskRarelyForTheCaller_WhenItIsRejectedAfterAnEffect(t *testing.T) {
	s := gatewaytest.NewTokenStub()
	c := newTestUpstream(t, map[string]string{"JOBS_GATEWAY_UPSTREAM": gatewaytest.ServeService(t, s)}).NewCallers(nil)
	request := httptest.NewRequest("GET", "/customer/jobs/a", nil)
	request.Header = gatewaytest.Bearer("junk")
	id := c.Identify(request)
	memory := limits.NewRequestMemory(limits.NewMemoryLimits(128<<20), id)
	messages := memory.Messages.Semaphore
	messages.TryAcquire(id.Caller, messages.Maximum(id.Caller))
	ctx, cancel := context.WithTimeout(t.Context(), 4*messageRetry)
	defer cancel()
	e := reserveForMessage(ctx, memory, make([]byte, maxJobBytes), largeResponse{bytes: maxJobBytes, writes: true})
	if e == nil || s.Lookups.Load() > 4 {
		t.Errorf("%v after %d lookups", e, s.Lookups.Load())
	}
}

// checkFree fails if something of the semaphore is held: two tenants must get all of it.
func checkFree(t *testing.T, s *limits.Semaphore) {
	t.Helper()
	for _, name := range []string{"free-1", "free-2"} {
		if tenant := (limits.Caller{Tenant: name}); !s.TryAcquire(tenant, s.Maximum(tenant)) {
			t.Error("memory is in use")
		}
	}
}
