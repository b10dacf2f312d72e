package rest

import (
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	jobsv1 "github.com/jobs-grpc/jobs-grpc/gateway/gen/fleet/jobs/v1"
	"github.com/jobs-grpc/jobs-grpc/gateway/internal/routes"
)

func TestResponseHeaders_HavePollAfterInMilliseconds(t *testing.T) {
	ctx := routes.WithMatch(t.Context(), &routes.Match{Route: &routes.Route{Template: "/device/v1/jobs:startNext"}})
	for wait, want := range map[time.Duration]string{
		3788 * time.Millisecond: "3.788", 52*time.Second + 300_400*time.Microsecond: "52.3", time.Minute: "60", 0: "0",
	} {
		w := httptest.NewRecorder()
		response := &jobsv1.StartNextExecutionResponse{PollAfter: durationpb.New(wait)}
		if err := setResponseHeaders(ctx, w, response); err != nil {
			t.Fatal(err)
		}
		if got := w.Header().Get("X-Poll-After"); got != want {
			t.Errorf("%v: X-Poll-After %q, want %q", wait, got, want)
		}
	}
}

func TestResponseHeaders_HaveNoLocation_WhenValidateOnly(t *testing.T) {
	ctx := routes.WithMatch(t.Context(), &routes.Match{Route: &routes.Route{Template: "/customer/jobs"}})
	w := httptest.NewRecorder()
	response := &jobsv1.CreateJobResponse{JobId: "a", Preview: &jobsv1.TargetPreview{}}
	if err := setResponseHeaders(ctx, w, response); err != nil || w.Code != 200 || w.Header().Get("Location") != "" {
		t.Errorf("%d %v %v", w.Code, w.Header(), err)
	}
}

func TestResponseHeaders_HaveTheFirstEndedExecutions(t *testing.T) {
	ctx := routes.WithMatch(t.Context(), &routes.Match{Route: &routes.Route{Template: "/device/v1/jobs"}})
	one := &jobsv1.EndedExecution{JobId: "a", ExecutionNumber: 2, EndCause: jobsv1.JobExecution_TIMEOUT}
	for count, want := range map[int]string{
		0: "", 1: "a 2 TIMEOUT", 21: strings.Repeat("a 2 TIMEOUT, ", 19) + "a 2 TIMEOUT",
	} {
		w := httptest.NewRecorder()
		response := &jobsv1.ListPendingExecutionsResponse{EndedExecutions: slices.Repeat([]*jobsv1.EndedExecution{one}, count)}
		if err := setResponseHeaders(ctx, w, response); err != nil {
			t.Fatal(err)
		}
		if got := w.Header().Get("X-Ended-Executions"); got != want {
			t.Errorf("%d: %q, want %q", count, got, want)
		}
	}
}
