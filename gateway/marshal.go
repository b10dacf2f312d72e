package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	jobsv1 "github.com/jobs-grpc/jobs-grpc/gateway/gen/fleet/jobs/v1"
)

// RFC 3339, as Python's isoformat() writes it; "Z" stops older clients' fromisoformat().
const timestampLayout = "2006-01-02T15:04:05.000000-07:00"

// Rows of a list come without them: only GetJob fills them, and [] would say "none".
var notInRows = map[protoreflect.FullName]bool{
	"fleet.jobs.v1.Job.executions":                 true,
	"fleet.jobs.v1.Job.next_executions_page_token": true,
}

// Where only one kind of list fills a field, "" elsewhere would be no value of it.
var onlyIfFilled = map[protoreflect.FullName]bool{
	"fleet.jobs.v1.JobExecution.job_id": true,
}

// shapes is the JSON of answers: every field, by its proto name, unset ones as null, or
// false if they are booleans. (protojson leaves unset optional fields and members of
// oneofs out.) Requests are read in decode.go.
type shapes struct{ runtime.JSONPb }

// Marshal is called with messages and, for response_body, with their parts.
func (s *shapes) Marshal(v any) ([]byte, error) {
	switch v := v.(type) {
	case proto.Message:
		return appendMessage(nil, v.ProtoReflect(), nil)
	case []*jobsv1.Job:
		return appendRows(v)
	case []*jobsv1.JobExecution:
		return appendRows(v)
	}
	return nil, fmt.Errorf("no JSON shape for %T", v)
}

func (s *shapes) NewEncoder(w io.Writer) runtime.Encoder {
	return runtime.EncoderFunc(func(v any) error {
		body, err := s.Marshal(v)
		if err == nil {
			_, err = w.Write(body)
		}
		return err
	})
}

func appendRows[M proto.Message](rows []M) (b []byte, err error) {
	b = append(b, '[')
	for i, row := range rows {
		if i > 0 {
			b = append(b, ',')
		}
		if b, err = appendMessage(b, row.ProtoReflect(), notInRows); err != nil {
			return nil, err
		}
	}
	return append(b, ']'), nil
}

func appendMessage(b []byte, m protoreflect.Message, without map[protoreflect.FullName]bool) (_ []byte, err error) {
	switch known := m.Interface().(type) {
	case *timestamppb.Timestamp:
		return known.AsTime().In(time.UTC).AppendFormat(b, `"`+timestampLayout+`"`), nil
	case *structpb.Struct:
		return appendJSON(b, known.AsMap())
	}
	fields := m.Descriptor().Fields()
	before := byte('{')
	for i := range fields.Len() {
		field := fields.Get(i)
		if without[field.FullName()] || onlyIfFilled[field.FullName()] && !m.Has(field) {
			continue
		}
		b = append(b, before, '"')
		b = append(append(b, field.Name()...), '"', ':')
		before = ','
		switch {
		case !field.HasPresence() || m.Has(field):
			b, err = appendField(b, field, m.Get(field))
		case field.Kind() == protoreflect.BoolKind:
			b = append(b, "false"...)
		default:
			b = append(b, "null"...)
		}
		if err != nil {
			return nil, err
		}
	}
	if before == '{' {
		b = append(b, '{')
	}
	return append(b, '}'), nil
}

func appendField(b []byte, field protoreflect.FieldDescriptor, value protoreflect.Value) (_ []byte, err error) {
	if !field.IsList() {
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

func appendValue(b []byte, field protoreflect.FieldDescriptor, value protoreflect.Value) ([]byte, error) {
	if field.IsMap() {
		return nil, fmt.Errorf("no JSON shape for the map %s", field.FullName())
	}
	switch field.Kind() {
	case protoreflect.MessageKind:
		return appendMessage(b, value.Message(), nil)
	case protoreflect.StringKind:
		return appendJSON(b, value.String())
	case protoreflect.BoolKind:
		return strconv.AppendBool(b, value.Bool()), nil
	case protoreflect.Int32Kind:
		return strconv.AppendInt(b, value.Int(), 10), nil
	case protoreflect.EnumKind:
		if known := field.Enum().Values().ByNumber(value.Enum()); known != nil {
			return strconv.AppendQuote(b, string(known.Name())), nil
		}
		return strconv.AppendInt(b, int64(value.Enum()), 10), nil
	}
	return nil, fmt.Errorf("no JSON shape for %s, a %s", field.FullName(), field.Kind())
}

func appendJSON(b []byte, v any) ([]byte, error) {
	text, err := json.Marshal(v)
	return append(b, text...), err
}
