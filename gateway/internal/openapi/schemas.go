package main

import (
	"slices"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	_ "github.com/jobs-grpc/jobs-grpc/gateway/gen/fleet/jobs/v1" // registers the messages
)

// convertSchema adds to the schema of a message which properties are required, which may be
// null, and their limits.
func convertSchema(name string, schema object) object {
	if method, isBody := strings.CutSuffix(name, "Body"); isBody {
		name = method + "Request" // the body has the fields that are not in the path
	}
	message := findMessage(name)
	properties, ok := schema["properties"].(object)
	if message == nil || !ok {
		return schema
	}
	isRequest := strings.HasSuffix(name, "Request")
	var required []string
	for i := range message.Fields().Len() {
		field := message.Fields().Get(i)
		property, ok := properties[string(field.Name())].(object)
		if !ok {
			continue
		}
		if ref, ok := property["$ref"]; ok {
			// OpenAPI 3.0 ignores everything next to a $ref.
			delete(property, "$ref")
			property["allOf"] = []any{object{"$ref": ref}}
		}
		if mayBeNull(field, name) {
			property["nullable"] = true
		}
		if !isRequest && !optionalFields[string(field.FullName())] {
			required = append(required, string(field.Name()))
		}
		for key, value := range limits[string(field.FullName())] {
			property[key] = value
		}
	}
	if isRequest {
		required = requiredFields[name]
		for i := range message.Oneofs().Len() {
			if oneof := message.Oneofs().Get(i); !oneof.IsSynthetic() {
				schema["oneOf"] = alternatives(oneof)
			}
		}
	}
	if required != nil {
		schema["required"] = required
	}
	return schema
}

// findMessage returns the message of the package with this name, or nil.
func findMessage(name string) protoreflect.MessageDescriptor {
	found, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(packagePrefix + name))
	if err != nil {
		return nil
	}
	message, _ := found.(protoreflect.MessageDescriptor)
	return message
}

// mayBeNull reports whether a property may be null. In a request, null means absent. In a
// response, as marshal.go writes it, an unset field is null, or false if it is a bool.
func mayBeNull(field protoreflect.FieldDescriptor, schema string) bool {
	if strings.HasSuffix(schema, "Request") {
		return !slices.Contains(requiredFields[schema], string(field.Name()))
	}
	// The job of CreateJob is absent instead of null.
	return field.HasPresence() && field.Kind() != protoreflect.BoolKind && field.FullName() != "fleet.jobs.v1.CreateJobResponse.job"
}

// alternatives requires exactly one of the fields of a oneof.
func alternatives(oneof protoreflect.OneofDescriptor) []any {
	var all []any
	for i := range oneof.Fields().Len() {
		all = append(all, object{"required": []string{string(oneof.Fields().Get(i).Name())}})
	}
	return all
}
