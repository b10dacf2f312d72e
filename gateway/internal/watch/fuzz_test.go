package watch

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	jobsv1 "github.com/jobs-grpc/jobs-grpc/gateway/gen/fleet/jobs/v1"
)

// Nothing in a response of the server adds, ends or renames an event of the stream.
func FuzzFrames(f *testing.F) {
	hostile := "a\n\nevent: failure\r\ndata: {}\r\u2028\x00"
	for _, event := range []*jobsv1.Event{
		{}, {Position: 1, Type: "job.paused", JobId: "j"}, {Position: -1, Type: hostile, JobId: hostile},
	} {
		response := &jobsv1.WatchEventsResponse{Events: []*jobsv1.Event{event, event}, Position: 2}
		for _, message := range []proto.Message{response, &jobsv1.WatchJobResponse{Job: &jobsv1.Job{JobId: event.JobId}}} {
			encoded, err := proto.Marshal(message)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(encoded)
		}
	}
	f.Fuzz(func(t *testing.T, response []byte) {
		states := &jobStates{}
		if m, err := states.convert(response); err == nil {
			checkFrames(t, m.text, "id: "+states.lastID+"\n")
		}
		var decoded jobsv1.WatchEventsResponse
		events := &tenantEvents{request: &jobsv1.WatchEventsRequest{}}
		m, err := events.convert(response)
		if err != nil || proto.Unmarshal(response, &decoded) != nil {
			return
		}
		var starts []string
		for _, event := range decoded.GetEvents() {
			starts = append(starts, fmt.Sprintf("id: %d\n", event.GetPosition()))
		}
		if starts == nil {
			starts = []string{fmt.Sprintf("event: heartbeat\nid: %d\n", decoded.GetPosition())}
		}
		checkFrames(t, m.text, starts...)
	})
}

// checkFrames checks that a text has these events, by what precedes their data, and that the data are JSON in one line.
func checkFrames(t *testing.T, text []byte, starts ...string) {
	t.Helper()
	for _, start := range starts {
		data, ok := strings.CutPrefix(string(text), start+"data: ")
		data, rest, ended := strings.Cut(data, "\n\n")
		if !ok || !ended || strings.ContainsAny(data, "\r\n") || !json.Valid([]byte(data)) {
			t.Fatalf("%q does not start with the event %q", text, start)
		}
		text = []byte(rest)
	}
	if len(text) > 0 {
		t.Fatalf("%q follows the events", text)
	}
}
