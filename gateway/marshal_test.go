package main

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	jobsv1 "github.com/jobs-grpc/jobs-grpc/gateway/gen/fleet/jobs/v1"
)

func unaryMethods() (all []protoreflect.MethodDescriptor) {
	for _, file := range []protoreflect.FileDescriptor{jobsv1.File_fleet_jobs_v1_jobs_proto, jobsv1.File_fleet_jobs_v1_device_jobs_proto} {
		methods := file.Services().Get(0).Methods()
		for i := range methods.Len() {
			if !methods.Get(i).IsStreamingServer() {
				all = append(all, methods.Get(i))
			}
		}
	}
	return all
}

// A new call without a rule would be missing from REST, and nobody would notice.
func TestEveryUnaryCallHasARoute(t *testing.T) {
	all, err := readRoutes(openAPI)
	if err != nil {
		t.Fatal(err)
	}
	served := map[protoreflect.FullName]bool{}
	for _, r := range all {
		for _, o := range r.operations {
			if o != nil {
				served[o.request().FullName()] = true
			}
		}
	}
	for _, method := range unaryMethods() {
		if !served[method.Input().FullName()] {
			t.Errorf("no route for %s", method.FullName())
		}
	}
}

// A field of a kind that marshal.go can't write must not wait for a caller to find it.
func TestEveryFieldOfEveryAnswerHasAShape(t *testing.T) {
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
			case field.Message() == nil:
				message.Set(field, field.Default())
			case field.Message().ParentFile().Package() == "fleet.jobs.v1":
				fill(message.Mutable(field).Message())
			default:
				message.Mutable(field)
			}
		}
	}
	for _, method := range unaryMethods() {
		message := newMessage(method.Output())
		fill(message.ProtoReflect())
		body, err := (&shapes{}).Marshal(message)
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

func TestUnsetFieldsAreNullAndBooleansFalse(t *testing.T) {
	body, err := (&shapes{}).Marshal(&jobsv1.Job{JobId: "a\"<é>"})
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
	} {
		if got, ok := job[name]; !ok || got != want {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
}

func TestWellKnownTypes(t *testing.T) {
	params, err := structpb.NewStruct(map[string]any{"n": 5, "big": 9007199254740992, "half": 0.5, "l": []any{nil, true}})
	if err != nil {
		t.Fatal(err)
	}
	body, err := (&shapes{}).Marshal(&jobsv1.Job{
		DocumentParams: params,
		CreatedAt:      &timestamppb.Timestamp{Seconds: 1764000000, Nanos: 120_000_000},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`"document_params":{"big":9007199254740992,"half":0.5,"l":[null,true],"n":5}`,
		`"created_at":"2025-11-24T16:00:00.120000+00:00"`,
	} {
		if !strings.Contains(string(body), want) {
			t.Errorf("no %s in %s", want, body)
		}
	}
}

// The committed document promises exactly what is written.
func TestTheOpenAPIDocumentSaysWhatMayBeNull(t *testing.T) {
	var document struct {
		Components struct {
			Schemas map[string]struct {
				Properties map[string]struct{ Nullable bool }
			}
		}
	}
	if err := json.Unmarshal(openAPI, &document); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{
		"Job", "JobExecution", "DeviceExecution", "CreateJobResponse", "CancelJobResponse", "DeleteJobResponse",
		"RetryExecutionsResponse", "ListPendingExecutionsResponse", "StartNextExecutionResponse",
	} {
		message := newMessage(messageNamed(name))
		if execution, ok := message.(*jobsv1.JobExecution); ok {
			execution.JobId = "a" // left out if it is empty
		}
		body, err := (&shapes{}).Marshal(message)
		if err != nil {
			t.Fatal(err)
		}
		var written map[string]any
		if err := json.Unmarshal(body, &written); err != nil {
			t.Fatal(err)
		}
		described := document.Components.Schemas[name].Properties
		if len(described) != len(written) {
			t.Errorf("%s: %d properties described, %d written", name, len(described), len(written))
		}
		for field, value := range written {
			if described[field].Nullable != (value == nil) {
				t.Errorf("%s.%s: nullable %v, but written as %v", name, field, described[field].Nullable, value)
			}
		}
	}
}

// Clients with a model of the body send null for what they leave out.
func TestTheOpenAPIDocumentAllowsNullsThatAreTaken(t *testing.T) {
	var document struct {
		Components struct {
			Schemas map[string]struct {
				Required   []string
				Properties map[string]struct{ Nullable bool }
			}
		}
	}
	if err := json.Unmarshal(openAPI, &document); err != nil {
		t.Fatal(err)
	}
	for schema, id := range map[string]string{
		"CreateJobRequest": "CreateJob", "CancelJobBody": "CancelJob", "RetryExecutionsBody": "RetryExecutions",
		"CancelExecutionBody": "CancelExecution", "StartNextExecutionRequest": "StartNextExecution",
		"StartExecutionBody": "StartExecution", "UpdateExecutionBody": "UpdateExecution",
	} {
		described := document.Components.Schemas[schema]
		if len(described.Properties) == 0 {
			t.Errorf("%s has no properties", schema)
		}
		for field, property := range described.Properties {
			if _, p := decode(&operation{ID: id}, []byte(`{"`+field+`": null}`)); p != nil {
				t.Errorf("%s.%s: %s", schema, field, p.Detail)
			}
			if property.Nullable == slices.Contains(described.Required, field) {
				t.Errorf("%s.%s: nullable %v", schema, field, property.Nullable)
			}
		}
	}
}
