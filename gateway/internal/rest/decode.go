// Need: the OpenAPI document: closed schemas, names in snake_case, null as absent.

package rest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/jobs-grpc/jobs-grpc/gateway/internal/apierror"
	"github.com/jobs-grpc/jobs-grpc/gateway/internal/restjson"
)

// decodeMessage decodes a JSON object into a request message. It is stricter than protojson: names are snake_case
// and not those of variables in the path, enum values are names, and no field occurs twice.
func decodeMessage(body []byte, message protoreflect.Message, inPath map[string]string) *apierror.Error {
	members, e := parseJSONObject(body)
	if e != nil {
		return e
	}
	if e := checkFields(message.Descriptor(), members, inPath); e != nil {
		return e
	}
	fields := message.Descriptor().Fields()
	for _, m := range members {
		if m.isAbsent() {
			continue
		}
		if e := decodeField(message, fields.ByName(protoreflect.Name(m.name)), m); e != nil {
			return e
		}
	}
	isExplicitNull := func(m jsonMember) bool { return m.name == "expires_in_hours" && m.isNull() }
	if never := fields.ByName("never_expires"); never != nil && slices.ContainsFunc(members, isExplicitNull) {
		message.Set(never, protoreflect.ValueOfBool(true)) // in this API, null means that the job never expires
	}
	return nil
}

// checkFields rejects unknown and repeated fields, and two fields of one oneof.
func checkFields(request protoreflect.MessageDescriptor, members []jsonMember, inPath map[string]string) *apierror.Error {
	seen := map[string]bool{}
	var set []string
	for _, m := range members {
		if _, ok := inPath[m.name]; ok || request.Fields().ByName(protoreflect.Name(m.name)) == nil {
			return apierror.InvalidField(apierror.Truncate(m.name), fmt.Sprintf("unknown field %q", apierror.Truncate(m.name)))
		}
		if seen[m.name] {
			return apierror.InvalidField(m.name, m.name+" is set more than once")
		}
		seen[m.name] = true
		if !m.isAbsent() {
			set = append(set, m.name)
		}
	}
	return checkOneofs(request, set, "exactly one")
}

// decodeField decodes the value of one field. Its errors name the field.
func decodeField(message protoreflect.Message, field protoreflect.FieldDescriptor, m jsonMember) *apierror.Error {
	if field.Kind() == protoreflect.EnumKind {
		return decodeEnum(message, field, m)
	}
	if m.name == "document_params" {
		if e := checkIntegers(m); e != nil {
			return e
		}
	}
	value := m.value
	if field.Message() != nil && field.Message().FullName() == "google.protobuf.FieldMask" {
		value = camelCase(value)
	}
	format := "{%q:%s}"
	if field.Message() != nil && field.Message().FullName() == "fleet.jobs.v1.DeviceIds" && value[0] == '[' {
		format = `{%q:{"device_ids":%s}}` // this API also takes the list itself
	}
	// protojson decodes only whole messages, and clears them first.
	one := message.New()
	if err := protojson.Unmarshal(fmt.Appendf(nil, format, m.name, value), one.Interface()); err != nil {
		// protobuf-go writes the field as lowerCamelCase, which this API does not use.
		text := protoFieldName.ReplaceAllString(apierror.CleanParserMessage(err.Error()), "")
		return apierror.InvalidField(m.name, m.name+": "+text)
	}
	if one.Has(field) {
		message.Set(field, one.Get(field)) // without a copy of nested messages
	}
	return nil
}

// decodeEnum decodes the names of enum values. protojson would accept any number.
func decodeEnum(message protoreflect.Message, field protoreflect.FieldDescriptor, m jsonMember) *apierror.Error {
	values := []json.RawMessage{m.value}
	if field.IsList() && json.Unmarshal(m.value, &values) != nil {
		return apierror.InvalidField(m.name, m.name+" must be a list of names")
	}
	for _, value := range values {
		var name string
		if json.Unmarshal(value, &name) != nil || string(value) == "null" {
			return apierror.InvalidField(m.name, m.name+" must be given by name, as a string")
		}
		known := field.Enum().Values().ByName(protoreflect.Name(name))
		if known == nil || known.Number() == 0 {
			return unknownEnumValue(m.name, name, namesOf(field.Enum().Values()))
		}
		if number := protoreflect.ValueOfEnum(known.Number()); field.IsList() {
			message.Mutable(field).List().Append(number)
		} else {
			message.Set(field, number)
		}
	}
	return nil
}

var underscoreAndLetter = regexp.MustCompile("_[a-z]")

// camelCase changes the paths of a field mask to lowerCamelCase, the only form that protojson accepts. This API
// writes them like all names, for example "rollout.max_in_progress,failure_criteria".
func camelCase(mask []byte) []byte {
	return underscoreAndLetter.ReplaceAllFunc(mask, func(s []byte) []byte { return bytes.ToUpper(s[1:]) })
}

// checkOneofs rejects two fields of one oneof and names them. howMany is "exactly one" or "at
// most one".
func checkOneofs(request protoreflect.MessageDescriptor, set []string, howMany string) *apierror.Error {
	for i := range request.Oneofs().Len() {
		fields := request.Oneofs().Get(i).Fields()
		isOther := func(name string) bool { return fields.ByName(protoreflect.Name(name)) == nil }
		conflicting := slices.DeleteFunc(slices.Clone(set), isOther)
		if len(conflicting) < 2 {
			continue
		}
		detail := fmt.Sprintf("%s must not be set together; set %s of %s",
			strings.Join(conflicting, " and "), howMany, strings.Join(namesOf(fields), ", "))
		e := apierror.New(codes.InvalidArgument, "INVALID_FIELD", detail)
		for _, name := range conflicting {
			e.FieldViolations = append(e.FieldViolations, apierror.FieldViolation{Field: name, Description: "conflicts with another field"})
		}
		return e
	}
	return nil
}

// namesOf returns the names of fields, or of the values of an enum.
func namesOf[D protoreflect.Descriptor](list interface {
	Len() int
	Get(int) D
}) (names []string) {
	for i := range list.Len() {
		names = append(names, string(list.Get(i).Name()))
	}
	return names
}

// unknownEnumValue lists the values that select something: not UNSPECIFIED, which counts as absent.
func unknownEnumValue(field, value string, names []string) *apierror.Error {
	names = slices.DeleteFunc(slices.Clone(names), func(name string) bool { return strings.HasSuffix(name, "_UNSPECIFIED") })
	return apierror.InvalidField(field, fmt.Sprintf("%s %q is unknown; it must be one of %s", field, apierror.Truncate(value), strings.Join(names, ", ")))
}

var protoFieldName = regexp.MustCompile(` field \w+`)

// jsonMember is one name and value of a JSON object.
type jsonMember struct {
	name  string
	value json.RawMessage
}

func (m jsonMember) isNull() bool { return string(m.value) == "null" }

// isAbsent reports whether the member counts as absent: it is null, or one of the three oldest targets without a
// value. Clients that send all fields of their model send these too. An empty value of another target is an error.
func (m jsonMember) isAbsent() bool {
	switch m.name {
	case "target_device_id", "target_group_id":
		return m.isNull() || string(m.value) == `""`
	case "target_all":
		return m.isNull() || string(m.value) == "false"
	}
	return m.isNull()
}

// parseJSONObject returns the members of the JSON object in body, in their order and with
// repeated names. It rejects anything after the object.
func parseJSONObject(body []byte) ([]jsonMember, *apierror.Error) {
	decoder := json.NewDecoder(bytes.NewReader(body))
	open, err := decoder.Token()
	if err != nil {
		return nil, invalidJSON(err)
	}
	if open != json.Delim('{') {
		return nil, apierror.MalformedRequest("The body must be one JSON object")
	}
	var members []jsonMember
	for decoder.More() {
		name, err := decoder.Token()
		if err != nil {
			return nil, invalidJSON(err)
		}
		m := jsonMember{name: name.(string)} // the decoder returns names only as strings
		if err := decoder.Decode(&m.value); err != nil {
			return nil, invalidJSON(err)
		}
		members = append(members, m)
	}
	if _, err := decoder.Token(); err != nil {
		return nil, invalidJSON(err)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return nil, apierror.MalformedRequest("The body must be one JSON object")
	}
	return members, nil
}

func invalidJSON(err error) *apierror.Error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return apierror.MalformedRequest("The body is not valid JSON: unexpected end of input")
	}
	return apierror.MalformedRequest("The body is not valid JSON: " + err.Error())
}

// jsonMarshaler is the runtime.Marshaler of this API.
type jsonMarshaler struct{ runtime.JSONPb }

func (*jsonMarshaler) Marshal(v any) ([]byte, error) { return restjson.Marshal(v) }

// NewEncoder returns an encoder that writes the JSON of Marshal.
func (m *jsonMarshaler) NewEncoder(w io.Writer) runtime.Encoder {
	return runtime.EncoderFunc(func(v any) error {
		body, err := m.Marshal(v)
		if err == nil {
			_, err = w.Write(body)
		}
		return err
	})
}

// NewDecoder returns a decoder of a requestBody. io.EOF tells the generated code that there is no body.
func (m *jsonMarshaler) NewDecoder(r io.Reader) runtime.Decoder {
	return runtime.DecoderFunc(func(v any) error {
		body, ok := r.(*requestBody)
		if !ok {
			return io.EOF
		}
		if body.err = decodeMessage(body.json, v.(proto.Message).ProtoReflect(), body.inPath); body.err != nil {
			return body.err
		}
		body.json = nil // the memory is not needed during the call
		return nil
	})
}

// requestBody replaces the body of a request after it has been read. It carries the JSON to the decoder that the
// generated code calls.
type requestBody struct {
	json   []byte
	inPath map[string]string // the variables of the path
	err    *apierror.Error   // set by the decoder: the generated code turns its error into text
}

func (*requestBody) Read([]byte) (int, error) { return 0, io.EOF }
func (*requestBody) Close() error             { return nil }
