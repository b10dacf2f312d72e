package restjson

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	jobsv1 "github.com/jobs-grpc/jobs-grpc/gateway/gen/fleet/jobs/v1"
	"github.com/jobs-grpc/jobs-grpc/gateway/internal/gatewaytest"
)

// A field of a kind that jsonMarshaler does not support would fail at run time.
func TestMarshal_WritesEveryFieldOfEveryResponse(t *testing.T) {
	seen := map[protoreflect.FullName]bool{}
	var fill func(message protoreflect.Message)
	fill = func(message protoreflect.Message) {
		seen[message.Descriptor().FullName()] = true
		for i := range message.Descriptor().Fields().Len() {
			field := message.Descriptor().Fields().Get(i)
			switch {
			case field.IsList():
				list := message.Mutable(field).List()
				element := list.NewElement()
				if field.Message() != nil {
					fill(element.Message())
				}
				list.Append(element)
			case field.IsMap():
				message.Mutable(field).Map().Set(protoreflect.ValueOfString("key").MapKey(), protoreflect.ValueOfString("value"))
			case field.Message() == nil:
				message.Set(field, field.Default())
			case field.Message().ParentFile().Package() == "fleet.jobs.v1":
				fill(message.Mutable(field).Message())
			default:
				message.Mutable(field)
			}
		}
	}
	for _, method := range gatewaytest.UnaryMethods() {
		message := gatewaytest.NewMessage(method.Output())
		fill(message.ProtoReflect())
		body, err := Marshal(message)
		if err != nil || !json.Valid(body) {
			t.Errorf("%T: %v in %s", message, err, body)
		}
	}
	for _, name := range []protoreflect.FullName{"fleet.jobs.v1.JobExecution", "fleet.jobs.v1.DeviceExecution"} {
		if !seen[name] {
			t.Errorf("%s was not reached", name)
		}
	}
}

func TestMarshal_WritesMapsSortedByKey(t *testing.T) {
	body, err := Marshal(&jobsv1.Device{DeviceId: "d", Labels: map[string]string{"b": "\"é\"", "a": ""}})
	if err != nil {
		t.Fatal(err)
	}
	expected := `{"device_id":"d","labels":{"a":"","b":"\"é\""},"time_zone":"","group_ids":[],"last_seen_at":null,"facts":{},"facts_updated_at":null}`
	if string(body) != expected {
		t.Errorf("%s, not %s", body, expected)
	}
}

func TestMarshal_WritesUnsetFieldsAsNullOrFalse(t *testing.T) {
	body, err := Marshal(&jobsv1.Job{JobId: "a\"<é>"})
	if err != nil {
		t.Fatal(err)
	}
	var job map[string]any
	if err := json.Unmarshal(body, &job); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]any{
		"job_id": "a\"<é>", "target_device_id": nil, "target_group_id": nil, "target_all": false,
		"expires_at": nil, "created_by": nil, "cancel_reason": nil, "total_executions": 0.0,
		"window_open": nil,
	} {
		if got, ok := job[name]; !ok || got != want {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
}

func TestMarshal_WritesTimestampStructAndDuration(t *testing.T) {
	params, err := structpb.NewStruct(map[string]any{"n": 5, "big": 9007199254740992, "half": 0.5, "l": []any{nil, true}})
	if err != nil {
		t.Fatal(err)
	}
	body, err := Marshal(&jobsv1.Job{
		DocumentParams: params,
		CreatedAt:      &timestamppb.Timestamp{Seconds: 1764000000, Nanos: 120_000_000},
		Rollout: &jobsv1.Rollout{Stages: []*jobsv1.Stage{
			{Gate: &jobsv1.Gate{BakeTime: durationpb.New(time.Hour)}},
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`"document_params":{"big":9007199254740992,"half":0.5,"l":[null,true],"n":5}`,
		`"created_at":"2025-11-24T16:00:00.120000+00:00"`,
		`"bake_time":"3600s"`,
	} {
		if !strings.Contains(string(body), want) {
			t.Errorf("no %s in %s", want, body)
		}
	}
}

func TestMarshal_OmitsFieldsThatTheCallDoesNotFill(t *testing.T) {
	for _, test := range []struct {
		response any
		omitted  []string
		written  []string
	}{
		{&jobsv1.CreateJobResponse{JobId: "j"}, []string{"preview"}, []string{"job_id"}},
		{&jobsv1.CreateJobResponse{Preview: &jobsv1.TargetPreview{}}, nil, []string{"preview", "stage_sizes"}},
		{&jobsv1.Job{}, []string{"executions", "next_executions_page_token"}, []string{"rollout", "failure_criteria", "stages", "criterion_states", "trip"}},
		{[]*jobsv1.Job{{}}, []string{"executions", "next_executions_page_token", "rollout", "failure_criteria", "stages", "criterion_states"}, []string{"trip"}},
	} {
		body, err := Marshal(test.response)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range test.omitted {
			if strings.Contains(string(body), `"`+name+`":`) {
				t.Errorf("%s in %s", name, body)
			}
		}
		for _, name := range test.written {
			if !strings.Contains(string(body), `"`+name+`":`) {
				t.Errorf("no %s in %s", name, body)
			}
		}
	}
}
