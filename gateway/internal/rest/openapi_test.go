package rest

import (
	"encoding/json"
	"slices"
	"testing"

	jobsv1 "github.com/jobs-grpc/jobs-grpc/gateway/gen/fleet/jobs/v1"
	"github.com/jobs-grpc/jobs-grpc/gateway/internal/gatewaytest"
	"github.com/jobs-grpc/jobs-grpc/gateway/internal/restjson"
	"github.com/jobs-grpc/jobs-grpc/gateway/internal/routes"
)

type openAPISchema struct {
	Required   []string
	Properties map[string]struct{ Nullable bool }
}

// openAPISchemas returns the schemas of the committed OpenAPI document.
func openAPISchemas(t *testing.T) map[string]openAPISchema {
	t.Helper()
	var document struct {
		Components struct {
			Schemas map[string]openAPISchema
		}
	}
	if err := json.Unmarshal(gatewaytest.OpenAPI(), &document); err != nil {
		t.Fatal(err)
	}
	return document.Components.Schemas
}

// Each response schema has the properties that jsonMarshaler writes, and no others. Those that it
// writes as null are nullable.
func TestOpenAPI_DescribesResponsesAsMarshaled(t *testing.T) {
	schemas := openAPISchemas(t)
	for _, name := range []string{
		"Job", "JobExecution", "DeviceExecution", "CreateJobResponse", "CancelJobResponse", "DeleteJobResponse",
		"RetryExecutionsResponse", "StartNextExecutionResponse", "GetFailureSummaryResponse",
		"Event", "ListEventsResponse", "Webhook", "CreateWebhookResponse", "RotateWebhookSecretResponse", "TestWebhookResponse",
	} {
		message := gatewaytest.NewMessage(routes.MessageDescriptor(name))
		switch message := message.(type) { // fields that are omitted if they are empty
		case *jobsv1.JobExecution:
			message.JobId = "a"
		case *jobsv1.CreateJobResponse:
			message.Preview, message.Forecast = &jobsv1.TargetPreview{}, &jobsv1.Forecast{}
		case *jobsv1.Job:
			message.NextExecutionsPageToken = "a"
		}
		body, err := restjson.Marshal(message)
		if err != nil {
			t.Fatal(err)
		}
		var written map[string]any
		if err := json.Unmarshal(body, &written); err != nil {
			t.Fatal(err)
		}
		described := schemas[name].Properties
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

// Clients that build the body from a model send null for absent fields.
func TestOpenAPI_MarksRequestFieldsNullable_UnlessRequired(t *testing.T) {
	schemas := openAPISchemas(t)
	for schema, id := range map[string]string{
		"CreateJobRequest": "CreateJob", "CancelJobBody": "CancelJob", "RetryExecutionsBody": "RetryExecutions",
		"CancelExecutionBody": "CancelExecution", "StartNextExecutionRequest": "StartNextExecution",
		"StartExecutionBody": "StartExecution", "UpdateExecutionBody": "UpdateExecution",
		"CreateWebhookRequest": "CreateWebhook", "UpdateWebhookBody": "UpdateWebhook",
	} {
		described := schemas[schema]
		if len(described.Properties) == 0 {
			t.Errorf("%s has no properties", schema)
		}
		for field, property := range described.Properties {
			if e := decodeMessage([]byte(`{"`+field+`": null}`), gatewaytest.NewMessage(routes.MessageDescriptor(id+"Request")).ProtoReflect(), nil); e != nil {
				t.Errorf("%s.%s: %s", schema, field, e.Detail)
			}
			if property.Nullable == slices.Contains(described.Required, field) {
				t.Errorf("%s.%s: nullable %v", schema, field, property.Nullable)
			}
		}
	}
}
