package watch

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	jobsv1 "github.com/jobs-grpc/jobs-grpc/gateway/gen/fleet/jobs/v1"
	"github.com/jobs-grpc/jobs-grpc/gateway/internal/apierror"
	"github.com/jobs-grpc/jobs-grpc/gateway/internal/gatewaytest"
)

// eventStub answers one call after the other, and records the requests. An error ends a call; without one, the call
// stays open.
type eventStub struct {
	gatewaytest.MetadataCallers
	jobsv1.UnimplementedEventServiceServer
	calls    chan eventCall
	requests chan *jobsv1.WatchEventsRequest
}

type eventCall struct {
	responses []*jobsv1.WatchEventsResponse
	err       error
}

func (s *eventStub) WatchEvents(r *jobsv1.WatchEventsRequest, stream jobsv1.EventService_WatchEventsServer) error {
	s.requests <- r
	select {
	case call := <-s.calls:
		for _, response := range call.responses {
			if err := stream.Send(response); err != nil {
				return err
			}
		}
		if call.err != nil {
			return call.err
		}
	case <-stream.Context().Done():
	}
	<-stream.Context().Done()
	return nil
}

func newEventGateway(t *testing.T, env map[string]string, calls ...eventCall) (*watchGateway, *eventStub) {
	t.Helper()
	s := &eventStub{calls: make(chan eventCall, len(calls)), requests: make(chan *jobsv1.WatchEventsRequest, 100)}
	for _, call := range calls {
		s.calls <- call
	}
	return newGateway(t, s, env), s
}

// eventsAt returns a response with events at these positions.
func eventsAt(positions ...int64) *jobsv1.WatchEventsResponse {
	response := &jobsv1.WatchEventsResponse{Position: positions[len(positions)-1]}
	for _, position := range positions {
		response.Events = append(response.Events, &jobsv1.Event{Position: position, Type: "job.paused", JobId: "a"})
	}
	return response
}

func heartbeat(position int64) *jobsv1.WatchEventsResponse {
	return &jobsv1.WatchEventsResponse{Position: position}
}

// received returns the names and IDs of the next messages.
func received(t *testing.T, response *http.Response, want int) string {
	t.Helper()
	all, _ := events(t, response, want)
	var names []string
	for _, e := range all {
		names = append(names, strings.TrimSpace(e.name+" "+e.id+e.reason))
	}
	return strings.Join(names, ", ")
}

// patient keeps the gateway from sending heartbeats of its own.
func patient(g *watchGateway) { g.watches.heartbeat = time.Hour }

func TestWatchEvents_SendsEachEventOnce_AcrossRestartsOfTheServer(t *testing.T) {
	g, s := newEventGateway(t, nil,
		eventCall{[]*jobsv1.WatchEventsResponse{heartbeat(10), eventsAt(11, 12), heartbeat(20)}, unavailable},
		eventCall{nil, unavailable},
		eventCall{nil, status.Error(codes.Canceled, "")}, // a server that stops may reset the call
		eventCall{[]*jobsv1.WatchEventsResponse{eventsAt(21)}, nil},
	)
	patient(g)

	response := g.getPath(t, "/events?types=job.paused&types=job.resumed&job_id=a&from_time=2026-11-24T15:05:36Z", "")

	if got := received(t, response, 5); got != "heartbeat 10, 11, 12, heartbeat 20, 21" {
		t.Error(got)
	}
	if got := response.Header.Get("Content-Type"); got != "text/event-stream" {
		t.Errorf("Content-Type %q", got)
	}
	first := <-s.requests
	at := timestamppb.New(time.Date(2026, 11, 24, 15, 5, 36, 0, time.UTC))
	want := &jobsv1.WatchEventsRequest{
		Types: []string{"job.paused", "job.resumed"}, JobId: "a", Start: &jobsv1.WatchEventsRequest_FromTime{FromTime: at},
	}
	if !proto.Equal(first, want) {
		t.Errorf("%v", first)
	}
	want.Start = &jobsv1.WatchEventsRequest_AfterPosition{AfterPosition: 20}
	for range 3 {
		if next := <-s.requests; !proto.Equal(next, want) {
			t.Errorf("%v", next)
		}
	}
}

func TestWatchEvents_WritesEventsLikeUnaryCalls(t *testing.T) {
	event := &jobsv1.Event{Position: 1<<53 - 1, Type: "job.tripped", Time: timestamppb.New(time.Unix(0, 0)), JobId: "a", Reason: "a\nb"}
	g, _ := newEventGateway(t, nil, eventCall{[]*jobsv1.WatchEventsResponse{{Events: []*jobsv1.Event{event}, Position: event.Position}}, nil})
	patient(g)
	body := make([]byte, 4<<10)
	response := g.getPath(t, "/events", "")

	text := ""
	for strings.Count(text, "\n\n") < 2 {
		n, err := response.Body.Read(body)
		if err != nil {
			t.Fatal(err)
		}
		text += string(body[:n])
	}

	id, data, _ := strings.Cut(strings.TrimPrefix(text, "retry: 2000\n\n"), "\n")
	var decoded map[string]any
	if err := json.Unmarshal([]byte(strings.TrimPrefix(data, "data: ")), &decoded); err != nil {
		t.Fatal(err, text)
	}
	if id != "id: 9007199254740991" || decoded["position"] != "9007199254740991" || decoded["reason"] != "a\nb" ||
		decoded["stage"] != nil || decoded["time"] != "1970-01-01T00:00:00.000000+00:00" {
		t.Errorf("%s", text)
	}
}

func TestWatchEvents_ContinuesAfterLastEventID_WhateverTheQuerySays(t *testing.T) {
	g, s := newEventGateway(t, nil, eventCall{nil, unavailable}, eventCall{[]*jobsv1.WatchEventsResponse{eventsAt(6)}, nil})
	patient(g)

	// The client waits although the server is unavailable, because it has a position.
	if got := received(t, g.getPath(t, "/events?after_position=2", "5"), 1); got != "6" {
		t.Error(got)
	}
	if first := <-s.requests; first.GetAfterPosition() != 5 {
		t.Errorf("%v", first)
	}
}

func TestWatchEvents_RejectsALastEventIDThatIsNoPosition(t *testing.T) {
	g, _ := newEventGateway(t, nil)
	for _, id := range []string{"x", "-1", "9223372036854775808", "6f1ed002ab5595f4"} {
		response := g.getPath(t, "/events", id)
		var e apierror.Error
		if err := json.NewDecoder(response.Body).Decode(&e); err != nil || response.StatusCode != 400 || e.Reason != "INVALID_FIELD" {
			t.Errorf("%s: %d %+v %v", id, response.StatusCode, e, err)
		}
	}
}

func TestWatchEvents_FailsWithTheStatus_BeforeTheFirstMessage(t *testing.T) {
	for reason, c := range map[string]struct {
		code codes.Code
		want int
	}{
		"EVENTS_PURGED":    {codes.OutOfRange, 410},
		"POSITION_UNKNOWN": {codes.OutOfRange, 410},
		"INVALID_FIELD":    {codes.InvalidArgument, 400},
		"SERVER_STOPPING":  {codes.Unavailable, 503},
	} {
		g, _ := newEventGateway(t, nil, eventCall{nil, gatewaytest.ServiceError(c.code, reason)})
		patient(g)
		response := g.getPath(t, "/events?after_position=1", "")
		var e apierror.Error
		if err := json.NewDecoder(response.Body).Decode(&e); err != nil || response.StatusCode != c.want || e.Reason != reason {
			t.Errorf("%s: %d %+v %v", reason, response.StatusCode, e, err)
		}
	}
}

func TestWatchEvents_EndsWithAFailure_WhenTheStreamFallsBehindTheRetention(t *testing.T) {
	g, _ := newEventGateway(t, nil,
		eventCall{[]*jobsv1.WatchEventsResponse{eventsAt(1)}, gatewaytest.ServiceError(codes.OutOfRange, "EVENTS_PURGED")})
	patient(g)

	if got := received(t, g.getPath(t, "/events", ""), 100); got != "1, failure EVENTS_PURGED" {
		t.Error(got)
	}
}

func TestWatchEvents_SendsHeartbeatsWithThePosition_WhileTheServerIsAway(t *testing.T) {
	g, _ := newEventGateway(t, nil, eventCall{[]*jobsv1.WatchEventsResponse{eventsAt(7)}, unavailable})
	g.watches.heartbeat = -extraWait + time.Millisecond

	got := received(t, g.getPath(t, "/events", "3"), 300)

	before, after, found := strings.Cut(", "+got, ", 7, ")
	if !found || strings.Contains(before, "7") || strings.ReplaceAll(after+", ", "heartbeat 7, ", "") != "" {
		t.Error(got)
	}
}

func TestWatchEvents_HaveSlotsOfTheirOwn(t *testing.T) {
	var calls []eventCall
	for range 8 {
		calls = append(calls, eventCall{[]*jobsv1.WatchEventsResponse{heartbeat(1)}, nil})
	}
	g, _ := newEventGateway(t, map[string]string{"JOBS_GATEWAY_MAX_EVENT_STREAMS": "4", "JOBS_GATEWAY_MAX_WATCHES": "1"}, calls...)
	patient(g)
	for range 2 { // half of them: one tenant
		if response := g.getPath(t, "/events", ""); response.StatusCode != http.StatusOK {
			t.Fatal(response.Status)
		}
	}

	gatewaytest.CheckOverloaded(t, g.getPath(t, "/events", ""), "JOBS_GATEWAY_MAX_EVENT_STREAMS")
}

func TestWatchEvents_HoldsNoMemory_AfterItWasSent(t *testing.T) {
	large := eventsAt(1)
	for n := range 100 {
		large.Events[0].Attempts = append(large.Events[0].Attempts, &jobsv1.FinishedAttempt{DeviceId: fmt.Sprintf("d%0500d", n)})
	}
	g, _ := newEventGateway(t, nil, eventCall{[]*jobsv1.WatchEventsResponse{large, heartbeat(2)}, nil})
	patient(g)

	if got := received(t, g.getPath(t, "/events", ""), 2); got != "1, heartbeat 2" {
		t.Error(got)
	}

	checkFree(t, g.watches.limits.Buffers)
	checkFree(t, g.watches.limits.Messages)
}
