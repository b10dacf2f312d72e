package main

import (
	_ "embed"
	"encoding/json"
	"fmt"

	"go.yaml.in/yaml/v3"
)

// parts are the parts of the document that the contract does not have: see document.yaml.
var parts = parse[struct {
	Document          object
	Security          struct{ Operator, Device []any }
	AdditionalRoutes  map[string]struct{ ID, Summary string } `yaml:"additional_routes"`
	TypicalOperations map[string]string                       `yaml:"typical_operations"`
	Overrides         map[string]object
	Streams           map[string]struct {
		Description string
		Responses   object
	}
	LastEventID    object `yaml:"last_event_id"`
	CreateJobLinks object `yaml:"create_job_links"`
	Statuses       map[int]struct{ Title, Shared string }
	GatewayErrors  []gatewayError `yaml:"gateway_errors"`
}]("document.yaml", documentYAML, yaml.Unmarshal)

// examples has a request and a response of each operation, as tests/gateway/test_openapi_examples.py records them.
var examples = parse[map[string]struct{ Request, Response any }]("examples.json", examplesJSON, json.Unmarshal)

// sampleErrors has an example of each error of the service: see tools/errors_reference.py.
var sampleErrors = parse[map[string]object]("sample_errors.json", sampleErrorsJSON, json.Unmarshal)

//go:embed document.yaml
var documentYAML []byte

//go:embed examples.json
var examplesJSON []byte

//go:embed sample_errors.json
var sampleErrorsJSON []byte

func parse[T any](name string, text []byte, unmarshal func([]byte, any) error) (parsed T) {
	if err := unmarshal(text, &parsed); err != nil {
		panic(fmt.Sprintf("%s: %v", name, err))
	}
	return parsed
}
