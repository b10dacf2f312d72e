package main

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/jobs-grpc/jobs-grpc/gateway/internal/restjson"
)

const (
	schemasPrefix = "#/components/schemas/"
	inputSuffix   = "Input"
)

// addInputSchemas copies the schemas of messages that occur in requests, such as Rollout, to schemas
// of their own: a response has every field, and a request requires only a few.
func addInputSchemas(schemas object) {
	for _, name := range slices.Collect(maps.Keys(schemas)) {
		if isRequest(name) {
			useInputs(schemas, schemas[name])
		}
	}
}

func useInputs(schemas object, value any) {
	walk(value, func(value object) {
		name := refName(value)
		schema, _ := schemas[name].(object)
		if schema["properties"] == nil {
			return
		}
		value["$ref"] = schemasPrefix + name + inputSuffix
		if schemas[name+inputSuffix] == nil {
			schemas[name+inputSuffix] = deepCopy(schema)
			useInputs(schemas, schemas[name+inputSuffix])
		}
	})
}

func deepCopy(schema object) (result object) {
	text, _ := json.Marshal(schema)
	_ = json.Unmarshal(text, &result)
	return result
}

// isRequest reports whether a schema describes a request or a part of one.
func isRequest(schema string) bool {
	return strings.HasSuffix(schema, "Request") || strings.HasSuffix(schema, "Body") || strings.HasSuffix(schema, inputSuffix)
}

// messageOf returns the message that a schema describes, or nil.
func messageOf(schema string) protoreflect.MessageDescriptor {
	if method, isBody := strings.CutSuffix(schema, "Body"); isBody {
		schema = method + "Request" // the body has the fields that are not in the path
	}
	found, err := protoregistry.GlobalFiles.FindDescriptorByName(
		protoreflect.FullName(packagePrefix + strings.TrimSuffix(schema, inputSuffix)))
	if err != nil {
		return nil
	}
	message, _ := found.(protoreflect.MessageDescriptor)
	return message
}

// convertSchema adds to the schema of a message which properties are required, which may be
// null, and their limits. Requests have no other properties; responses may get more in a later version.
func convertSchema(name string, schema object) {
	message := messageOf(name)
	if message == nil {
		return
	}
	if isRequest(name) {
		schema["additionalProperties"] = false
	}
	properties, _ := schema["properties"].(object)
	var required []any
	for i := range message.Fields().Len() {
		field := message.Fields().Get(i)
		property, ok := properties[string(field.Name())].(object)
		if !ok {
			continue
		}
		isRequired, isNullable := presence(name, field)
		if isRequired {
			required = append(required, field.Name())
		}
		convertProperty(name, field, property)
		if isNullable {
			property["nullable"] = true
		}
	}
	if isRequest(name) {
		// null in expires_in_hours is how a REST client sets it.
		delete(properties, "never_expires")
	}
	if required != nil {
		schema["required"] = required
	}
}

// presence reports whether a property is always present in a response or must be in a request, and whether it may be
// null. In a request, null means absent. In a response, as marshal.go writes it, an unset field is null, or false if it is
// a bool of a oneof, or left out.
func presence(schema string, field protoreflect.FieldDescriptor) (isRequired, isNullable bool) {
	if isRequest(schema) {
		return rulesOf(field).GetRequired(), !rulesOf(field).GetRequired()
	}
	omitted := restjson.Omitted(field)
	isNullable = field.HasPresence() && !restjson.IsFalseIfUnset(field) && omitted != restjson.OmittedIfEmpty
	return omitted == restjson.Written, isNullable
}

func convertProperty(schema string, field protoreflect.FieldDescriptor, property object) {
	description, _ := property["description"].(string)
	if title, ok := property["title"].(string); ok { // the plugin takes a first line without a period for a title
		description = strings.TrimSpace(title + "\n\n" + description)
		delete(property, "title")
		property["description"] = description
	}
	if field.Message() != nil && field.Message().FullName() == "google.protobuf.Struct" {
		property["additionalProperties"] = true
	}
	if examples := rulesOf(field).GetString().GetExample(); len(examples) > 0 {
		property["x-extensible-enum"] = examples // later versions can add values
	}
	if isRequest(schema) {
		maps.Copy(property, limitsOf(field))
		allowEmpty(field, property)
		maps.Copy(property, parts.Overrides[string(field.FullName())])
	}
	if ref, ok := property["$ref"]; ok {
		// OpenAPI 3.0 ignores everything next to a $ref.
		delete(property, "$ref")
		property["allOf"] = []any{object{"$ref": ref}}
		property["type"] = "object" // "nullable" needs it
	}
}

// inlineEnums replaces references to enums by the enums. For a shared enum, the Go generator names
// constants after the values alone, and two enums have the value IN_PROGRESS.
func inlineEnums(schemas object, swagger any) {
	walk(swagger, func(value object) {
		schema, _ := schemas[refName(value)].(object)
		if schema != nil {
			delete(value, "type") // the plugin writes a type next to the $ref of array items
		}
		if schema["enum"] == nil {
			return
		}
		delete(value, "$ref")
		value["type"], value["enum"] = "string", schema["enum"]
		if m := enumValues.FindString(schema["description"].(string)); m != "" {
			description, _ := value["description"].(string)
			value["description"] = strings.TrimSpace(description + m)
		}
	})
}

// markNullable makes null valid for the properties with "nullable": the schemas that they refer to and
// the enums that they list must allow it, too.
func markNullable(schemas object) {
	for _, schema := range schemas {
		properties, _ := schema.(object)["properties"].(object)
		for _, property := range properties {
			property := property.(object)
			if all, ok := property["allOf"].([]any); ok && property["nullable"] == true {
				schemas[refName(all[0].(object))].(object)["nullable"] = true
			}
			if values, ok := property["enum"].([]any); ok && property["nullable"] == true {
				property["enum"] = append(slices.Clone(values), nil)
			}
		}
	}
}
