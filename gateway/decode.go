package main

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	jobsv1 "github.com/jobs-grpc/jobs-grpc/gateway/gen/fleet/jobs/v1"
)

const protoPackage = "fleet.jobs.v1"

// decodeMessage decodes a JSON object into the request message of the operation. It is
// stricter than protojson: names are snake_case, enum values are names, and no
// field occurs twice.
func decodeMessage(op *operation, body []byte) (proto.Message, *apiError) {
	members, e := parseJSONObject(body)
	if e != nil {
		return nil, e
	}
	descriptor := op.requestDescriptor()
	if e := checkFields(op, descriptor, members); e != nil {
		return nil, e
	}
	if e := checkEnums(descriptor, members); e != nil {
		return nil, e
	}
	body = withCamelCaseMasks(descriptor, members, body)
	message := newMessage(descriptor)
	if err := protojson.Unmarshal(body, message); err != nil {
		return nil, fieldError(descriptor, members, err)
	}
	if isExplicitNull(members, "expires_in_hours") {
		// protojson treats null as absent, but in this API null means that the job never expires.
		switch message := message.(type) {
		case *jobsv1.CreateJobRequest:
			message.NeverExpires = true
		case *jobsv1.RetryExecutionsRequest:
			message.NeverExpires = true
		}
	}
	return message, nil
}

// checkFields rejects unknown and repeated fields, and two fields of one oneof.
func checkFields(op *operation, request protoreflect.MessageDescriptor, members []jsonMember) *apiError {
	seen := map[string]bool{}
	var set []string // a null field counts as absent
	for _, m := range members {
		inPath := slices.ContainsFunc(op.Parameters, func(p parameter) bool { return p.In == "path" && p.Name == m.name })
		if inPath || request.Fields().ByName(protoreflect.Name(m.name)) == nil {
			return invalidField(truncate(m.name), fmt.Sprintf("unknown field %q", truncate(m.name)))
		}
		if seen[m.name] {
			return invalidField(m.name, m.name+" is set more than once")
		}
		seen[m.name] = true
		if !m.isNull() {
			set = append(set, m.name)
		}
	}
	return checkOneofs(request, set, "exactly one")
}

// checkOneofs rejects two fields of one oneof and names them. howMany is "exactly one" or "at
// most one".
func checkOneofs(request protoreflect.MessageDescriptor, set []string, howMany string) *apiError {
	for i := range request.Oneofs().Len() {
		fields := request.Oneofs().Get(i).Fields()
		var members []string
		for j := range fields.Len() {
			members = append(members, string(fields.Get(j).Name()))
		}
		var conflicting []string
		var violations []fieldViolation
		for _, name := range set {
			if slices.Contains(members, name) {
				conflicting = append(conflicting, name)
				violations = append(violations, fieldViolation{name, "conflicts with another field"})
			}
		}
		if len(conflicting) > 1 {
			detail := fmt.Sprintf("%s must not be set together; set %s of %s",
				strings.Join(conflicting, " and "), howMany, strings.Join(members, ", "))
			return newAPIError(codes.InvalidArgument, "INVALID_FIELD", detail, violations...)
		}
	}
	return nil
}

// checkEnums rejects enum values that are not known names. protojson would accept any number.
func checkEnums(request protoreflect.MessageDescriptor, members []jsonMember) *apiError {
	for _, m := range members {
		field := request.Fields().ByName(protoreflect.Name(m.name))
		if field.Kind() != protoreflect.EnumKind || m.isNull() {
			continue
		}
		values := []json.RawMessage{m.value}
		if field.IsList() && json.Unmarshal(m.value, &values) != nil {
			return invalidField(m.name, m.name+" must be a list of names")
		}
		names := enumValueNames(field.Enum())
		for _, value := range values {
			var name string
			if json.Unmarshal(value, &name) != nil || string(value) == "null" {
				return invalidField(m.name, m.name+" must be given by name, as a string")
			}
			if !slices.Contains(names, name) {
				return unknownEnumValue(m.name, name, names)
			}
		}
	}
	return nil
}

var underscoreAndLetter = regexp.MustCompile("_[a-z]")

// withCamelCaseMasks returns the body with the paths of field masks in lowerCamelCase, the only form
// that protojson accepts. This API writes them like all names, for example
// "rollout.max_in_progress,failure_criteria". It changes members, too.
func withCamelCaseMasks(request protoreflect.MessageDescriptor, members []jsonMember, body []byte) []byte {
	changed := false
	for i, m := range members {
		field := request.Fields().ByName(protoreflect.Name(m.name))
		var mask string
		if field.Message() == nil || field.Message().FullName() != "google.protobuf.FieldMask" ||
			json.Unmarshal(m.value, &mask) != nil {
			continue
		}
		mask = underscoreAndLetter.ReplaceAllStringFunc(mask, func(s string) string { return strings.ToUpper(s[1:]) })
		members[i].value, _ = json.Marshal(mask) // a string can always be encoded
		changed = true
	}
	if changed {
		return jsonObject(members)
	}
	return body
}

// enumValueNames returns the names of an enum's values without the UNSPECIFIED one.
func enumValueNames(enum protoreflect.EnumDescriptor) (names []string) {
	for i := range enum.Values().Len() {
		if value := enum.Values().Get(i); value.Number() != 0 {
			names = append(names, string(value.Name()))
		}
	}
	return names
}

func unknownEnumValue(field, value string, names []string) *apiError {
	return invalidField(field, fmt.Sprintf("%s %q is unknown; it must be one of %s", field, truncate(value), strings.Join(names, ", ")))
}

var protoFieldName = regexp.MustCompile(` field \w+`)

// fieldError finds the member that protojson rejects and returns an error that names it.
// err is the error about the whole body.
func fieldError(request protoreflect.MessageDescriptor, members []jsonMember, err error) *apiError {
	for _, m := range members {
		object := fmt.Appendf(nil, "{%q:%s}", m.name, m.value)
		if err := protojson.Unmarshal(object, newMessage(request)); err != nil {
			// protobuf-go writes the field as lowerCamelCase, which this API does not use.
			text := protoFieldName.ReplaceAllString(cleanParserMessage(err.Error()), "")
			return invalidField(m.name, m.name+": "+text)
		}
	}
	return malformedRequest("The body can't be decoded: " + cleanParserMessage(err.Error()))
}

func isExplicitNull(members []jsonMember, name string) bool {
	return slices.ContainsFunc(members, func(m jsonMember) bool { return m.name == name && m.isNull() })
}

// messageDescriptor returns the message of the fleet.jobs.v1 package with this name.
func messageDescriptor(name string) protoreflect.MessageDescriptor {
	known, err := protoregistry.GlobalTypes.FindMessageByName(protoPackage + "." + protoreflect.FullName(name))
	if err != nil {
		panic(err) // the generated code registers every message
	}
	return known.Descriptor()
}

func newMessage(descriptor protoreflect.MessageDescriptor) proto.Message {
	known, err := protoregistry.GlobalTypes.FindMessageByName(descriptor.FullName())
	if err != nil {
		panic(err) // the generated code registers every message
	}
	return known.New().Interface()
}
