package main

import (
	"encoding/json"
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
	"google.golang.org/protobuf/reflect/protoregistry"

	jobsv1 "github.com/jobs-grpc/jobs-grpc/gateway/gen/fleet/jobs/v1"
)

// decodedBody is a request's body after checkRequest: the message it said. Errors found
// while the generated code decodes would lose which field is at fault.
type decodedBody struct {
	message proto.Message
}

func (*decodedBody) Read([]byte) (int, error) { return 0, io.EOF }
func (*decodedBody) Close() error             { return nil }

// NewDecoder hands that message to the generated code; io.EOF is its word for "no body".
func (s *shapes) NewDecoder(r io.Reader) runtime.Decoder {
	return runtime.DecoderFunc(func(v any) error {
		decoded, ok := r.(*decodedBody)
		if !ok {
			return io.EOF
		}
		proto.Merge(v.(proto.Message), decoded.message)
		return nil
	})
}

// decode turns a JSON object into the operation's request. Fields have the names that the
// document gives them, and come once.
func decode(o *operation, body []byte) (proto.Message, *problem) {
	members, p := parseObject(body)
	if p != nil {
		return nil, p
	}
	request := o.request()
	if p := checkNames(o, request, members); p != nil {
		return nil, p
	}
	if p := checkEnums(request, members); p != nil {
		return nil, p
	}
	message := newMessage(request)
	if err := protojson.Unmarshal(body, message); err != nil {
		return nil, blame(request, members, err)
	}
	if givenAsNull(members, "expires_in_hours") {
		// To protobuf null is "not given"; to the document it is "never".
		switch message := message.(type) {
		case *jobsv1.CreateJobRequest:
			message.NeverExpires = true
		case *jobsv1.RetryExecutionsRequest:
			message.NeverExpires = true
		}
	}
	return message, nil
}

func checkNames(o *operation, request protoreflect.MessageDescriptor, members []member) *problem {
	seen := map[string]bool{}
	for _, m := range members {
		inPath := slices.ContainsFunc(o.Parameters, func(p parameter) bool { return p.In == "path" && p.Name == m.name })
		if inPath || request.Fields().ByName(protoreflect.Name(m.name)) == nil {
			return invalidField(clip(m.name), fmt.Sprintf("unknown field %q", clip(m.name)))
		}
		if seen[m.name] {
			return invalidField(m.name, m.name+" was given more than once")
		}
		seen[m.name] = true
	}
	var given []string // a field that is null is not
	for _, m := range members {
		if !m.isNull() {
			given = append(given, m.name)
		}
	}
	return checkOneofs(request, given, "Exactly one")
}

// checkOneofs names the fields that clash.
func checkOneofs(request protoreflect.MessageDescriptor, given []string, howMany string) *problem {
	for i := range request.Oneofs().Len() {
		fields := request.Oneofs().Get(i).Fields()
		var all, clashing []string
		var violations []violation
		for j := range fields.Len() {
			all = append(all, string(fields.Get(j).Name()))
		}
		for _, name := range given {
			if slices.Contains(all, name) {
				clashing = append(clashing, name)
				violations = append(violations, violation{name, "clashes with another field"})
			}
		}
		if len(clashing) > 1 {
			detail := fmt.Sprintf("%s must not be given together: %s of %s must be set",
				strings.Join(clashing, " and "), howMany, strings.Join(all, ", "))
			return newProblem(codes.InvalidArgument, "INVALID_FIELD", detail, violations...)
		}
	}
	return nil
}

// checkEnums takes names only. protojson takes numbers as well, whatever they are.
func checkEnums(request protoreflect.MessageDescriptor, members []member) *problem {
	for _, m := range members {
		field := request.Fields().ByName(protoreflect.Name(m.name))
		if field.Kind() != protoreflect.EnumKind || m.isNull() {
			continue
		}
		values := []json.RawMessage{m.value}
		if field.IsList() && json.Unmarshal(m.value, &values) != nil {
			return invalidField(m.name, m.name+" must be a list of names")
		}
		for _, value := range values {
			var name string
			if json.Unmarshal(value, &name) != nil || string(value) == "null" {
				return invalidField(m.name, m.name+" must be given by name")
			}
			if known := enumNames(field.Enum()); !slices.Contains(known, name) {
				return unknownName(m.name, name, known)
			}
		}
	}
	return nil
}

// enumNames are those of an enum's values, without the one that stands for none.
func enumNames(enum protoreflect.EnumDescriptor) (names []string) {
	for i := range enum.Values().Len() {
		if value := enum.Values().Get(i); value.Number() != 0 {
			names = append(names, string(value.Name()))
		}
	}
	return names
}

func unknownName(field, name string, known []string) *problem {
	return invalidField(field, fmt.Sprintf("%s %q is unknown; it must be one of %s", field, clip(name), strings.Join(known, ", ")))
}

var ofField = regexp.MustCompile(` field \w+`)

// blame finds the member with a value of the wrong type.
func blame(request protoreflect.MessageDescriptor, members []member, whole error) *problem {
	for _, m := range members {
		alone := fmt.Appendf(nil, "{%q:%s}", m.name, m.value)
		if err := protojson.Unmarshal(alone, newMessage(request)); err != nil {
			// protobuf-go calls the field by a name that this API doesn't use.
			text := ofField.ReplaceAllString(cleanText(err.Error()), "")
			return invalidField(m.name, m.name+": "+text)
		}
	}
	return malformed("The body can't be read: " + cleanText(whole.Error()))
}

func givenAsNull(members []member, name string) bool {
	return slices.ContainsFunc(members, func(m member) bool { return m.name == name && m.isNull() })
}

func newMessage(descriptor protoreflect.MessageDescriptor) proto.Message {
	known, err := protoregistry.GlobalTypes.FindMessageByName(descriptor.FullName())
	if err != nil {
		panic(err) // generated code registers every message of its file
	}
	return known.New().Interface()
}
