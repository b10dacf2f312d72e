// Package restjson writes messages as the JSON of the REST API.
//
// Need: existing clients, which expect null for unset fields and times that end in +00:00.
package restjson

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strconv"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	jobsv1 "github.com/jobs-grpc/jobs-grpc/gateway/gen/fleet/jobs/v1"
)

// timestampLayout is RFC 3339 with microseconds and the offset +00:00, as Python's isoformat()
// writes it. fromisoformat() rejects "Z" before Python 3.11.
const timestampLayout = "2006-01-02T15:04:05.000000-07:00"

// omission is the condition under which Marshal omits a field. These fields would be wrong if written empty: for
// example, `[]` claims that a job has no stages.
type omission int

const (
	omittedIfEmpty omission = iota + 1 // an empty ID is not valid, and a job that was created has neither a preview nor a forecast
	omittedInLists                     // the items of lists do not have it
	onlyOfGetJob                       // every job has executions, so GetJob returns some, or the token of the page that has them
)

// Keep in sync with `omitted` in tools/openapi/document.yaml; a test compares them.
var omissions = map[protoreflect.FullName]omission{
	"fleet.jobs.v1.CreateJobResponse.forecast":     omittedIfEmpty,
	"fleet.jobs.v1.CreateJobResponse.preview":      omittedIfEmpty,
	"fleet.jobs.v1.JobExecution.job_id":            omittedIfEmpty,
	"fleet.jobs.v1.Job.rollout":                    omittedInLists,
	"fleet.jobs.v1.Job.failure_criteria":           omittedInLists,
	"fleet.jobs.v1.Job.stages":                     omittedInLists,
	"fleet.jobs.v1.Job.criterion_states":           omittedInLists,
	"fleet.jobs.v1.Job.waits_for":                  omittedInLists,
	"fleet.jobs.v1.Job.possible_actions":           omittedInLists,
	"fleet.jobs.v1.Job.executions":                 onlyOfGetJob,
	"fleet.jobs.v1.Job.next_executions_page_token": onlyOfGetJob,
}

func isOmitted(m protoreflect.Message, field protoreflect.FieldDescriptor, inList bool) bool {
	switch omissions[field.FullName()] {
	case omittedIfEmpty:
		return !m.Has(field)
	case omittedInLists:
		return inList
	case onlyOfGetJob:
		job := m.Interface().(*jobsv1.Job)
		return inList || len(job.GetExecutions()) == 0 && job.GetNextExecutionsPageToken() == ""
	}
	return false
}

// Marshal writes a message, or a list of messages that is a response_body in rest_routes.yaml. It writes every field
// by its proto name; an unset field is null, or false if it is a bool of a oneof. protojson would omit unset optional
// fields and oneof members.
func Marshal(v any) (b []byte, err error) {
	if m, ok := v.(proto.Message); ok {
		return appendMessage(nil, m.ProtoReflect(), false)
	}
	list := reflect.ValueOf(v)
	if list.Kind() != reflect.Slice || !list.Type().Elem().Implements(reflect.TypeFor[proto.Message]()) {
		return nil, fmt.Errorf("can't marshal %T: it is neither a message nor a list of messages", v)
	}
	b = append(b, '[')
	for i := range list.Len() {
		if i > 0 {
			b = append(b, ',')
		}
		message := list.Index(i).Interface().(proto.Message)
		if b, err = appendMessage(b, message.ProtoReflect(), true); err != nil {
			return nil, err
		}
	}
	return append(b, ']'), nil
}

func appendMessage(b []byte, m protoreflect.Message, inList bool) (_ []byte, err error) {
	switch m := m.Interface().(type) {
	case *timestamppb.Timestamp:
		return m.AsTime().In(time.UTC).AppendFormat(b, `"`+timestampLayout+`"`), nil
	case *structpb.Struct:
		return appendJSON(b, m.AsMap())
	case *durationpb.Duration:
		text, err := protojson.Marshal(m)
		return append(b, text...), err
	}
	fields := m.Descriptor().Fields()
	b = append(b, '{')
	first := true
	for i := range fields.Len() {
		field := fields.Get(i)
		if isOmitted(m, field, inList) {
			continue
		}
		if !first {
			b = append(b, ',')
		}
		first = false
		b = append(b, '"')
		b = append(b, field.Name()...)
		b = append(b, '"', ':')
		switch {
		case !field.HasPresence() || m.Has(field):
			b, err = appendField(b, field, m.Get(field))
		case field.Kind() == protoreflect.BoolKind && !field.HasOptionalKeyword():
			b = append(b, "false"...)
		default:
			b = append(b, "null"...)
		}
		if err != nil {
			return nil, err
		}
	}
	return append(b, '}'), nil
}

func appendField(b []byte, field protoreflect.FieldDescriptor, value protoreflect.Value) (_ []byte, err error) {
	switch {
	case field.IsMap():
		return appendMap(b, field, value.Map())
	case !field.IsList():
		return appendValue(b, field, value)
	}
	b = append(b, '[')
	for i := range value.List().Len() {
		if i > 0 {
			b = append(b, ',')
		}
		if b, err = appendValue(b, field, value.List().Get(i)); err != nil {
			return nil, err
		}
	}
	return append(b, ']'), nil
}

// appendMap appends a map from string to string, sorted by key.
func appendMap(b []byte, field protoreflect.FieldDescriptor, values protoreflect.Map) ([]byte, error) {
	if field.MapKey().Kind() != protoreflect.StringKind || field.MapValue().Kind() != protoreflect.StringKind {
		return nil, fmt.Errorf("can't marshal the map %s", field.FullName())
	}
	texts := map[string]string{}
	values.Range(func(key protoreflect.MapKey, value protoreflect.Value) bool {
		texts[key.String()] = value.String()
		return true
	})
	return appendJSON(b, texts)
}

func appendValue(b []byte, field protoreflect.FieldDescriptor, value protoreflect.Value) ([]byte, error) {
	switch field.Kind() {
	case protoreflect.MessageKind:
		return appendMessage(b, value.Message(), false)
	case protoreflect.StringKind:
		return appendJSON(b, value.String())
	case protoreflect.BoolKind:
		return strconv.AppendBool(b, value.Bool()), nil
	case protoreflect.Int32Kind:
		return strconv.AppendInt(b, value.Int(), 10), nil
	case protoreflect.Int64Kind:
		return strconv.AppendQuote(b, strconv.FormatInt(value.Int(), 10)), nil // JavaScript's numbers are doubles
	case protoreflect.EnumKind:
		if known := field.Enum().Values().ByNumber(value.Enum()); known != nil {
			return strconv.AppendQuote(b, string(known.Name())), nil
		}
		return strconv.AppendInt(b, int64(value.Enum()), 10), nil
	}
	return nil, fmt.Errorf("can't marshal %s of kind %s", field.FullName(), field.Kind())
}

func appendJSON(b []byte, v any) ([]byte, error) {
	text, err := json.Marshal(v)
	return append(b, text...), err
}
