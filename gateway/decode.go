package main

import (
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

	jobsv1 "jobs-gateway/gen/fleet/jobs/v1"
)

var jobsFile = jobsv1.File_fleet_jobs_v1_jobs_proto

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
	rpc := jobsFile.Services().ByName("JobService").Methods().ByName(protoreflect.Name(o.ID))
	if p := checkNames(o, rpc.Input(), members); p != nil {
		return nil, p
	}
	message := newMessage(rpc.Input())
	if err := protojson.Unmarshal(body, message); err != nil {
		return nil, blame(rpc.Input(), members, err)
	}
	if create, ok := message.(*jobsv1.CreateJobRequest); ok && givenAsNull(members, "expires_in_hours") {
		// To protobuf null is "not given"; to the document it is "never".
		create.NeverExpires = true
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
	for i := range request.Oneofs().Len() {
		if p := checkOneof(request.Oneofs().Get(i), members); p != nil {
			return p
		}
	}
	return nil
}

// checkOneof names the fields that clash. One that is null is not given.
func checkOneof(oneof protoreflect.OneofDescriptor, members []member) *problem {
	var given, all []string
	var violations []violation
	for i := range oneof.Fields().Len() {
		all = append(all, string(oneof.Fields().Get(i).Name()))
	}
	for _, m := range members {
		if slices.Contains(all, m.name) && !m.isNull() {
			given = append(given, m.name)
			violations = append(violations, violation{m.name, "clashes with another field"})
		}
	}
	if len(given) < 2 {
		return nil
	}
	detail := fmt.Sprintf("%s must not be given together: Exactly one of %s must be set",
		strings.Join(given, " and "), strings.Join(all, ", "))
	return newProblem(codes.InvalidArgument, "INVALID_FIELD", detail, violations...)
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
