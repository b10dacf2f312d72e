package main

import (
	"strings"

	"buf.build/gen/go/bufbuild/protovalidate/protocolbuffers/go/buf/validate"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	jobsv1 "github.com/jobs-grpc/jobs-grpc/gateway/gen/fleet/jobs/v1"
)

// rulesOf returns the limits that the contract declares for a field.
func rulesOf(field protoreflect.FieldDescriptor) *validate.FieldRules {
	return proto.GetExtension(field.Options(), validate.E_Field).(*validate.FieldRules)
}

// keywords are the keywords of schemas for the rules of strings, numbers and lists.
var keywords = map[protoreflect.Name]string{
	"min_len": "minLength", "max_len": "maxLength", "pattern": "pattern", "gte": "minimum", "lte": "maximum", "max_items": "maxItems",
}

// limitsOf returns the limits of a field of a request as keywords of its schema.
func limitsOf(field protoreflect.FieldDescriptor) object {
	rules := rulesOf(field)
	limits := valueLimits(field, rules)
	if size := proto.GetExtension(field.Options(), jobsv1.E_DefaultPageSize).(int32); size > 0 {
		limits["default"] = size
	}
	if repeated := rules.GetRepeated(); repeated != nil {
		if rules.GetRequired() {
			limits["minItems"] = 1
		}
		if items := valueLimits(field, repeated.GetItems()); len(items) > 0 {
			items["type"] = "string"
			limits["items"] = items
		}
	}
	if oneof := field.ContainingOneof(); oneof != nil && field.Kind() == protoreflect.StringKind {
		// An empty member of a required oneof counts as unset.
		if proto.GetExtension(oneof.Options(), validate.E_Oneof).(*validate.OneofRules).GetRequired() {
			limits["minLength"] = 1
		}
	}
	return limits
}

// allowEmpty lets an empty value count as absent.
func allowEmpty(field protoreflect.FieldDescriptor, limits object) {
	if rulesOf(field).GetIgnore() != validate.Ignore_IGNORE_IF_ZERO_VALUE {
		return
	}
	delete(limits, "minLength")
	if pattern, ok := limits["pattern"].(string); ok {
		limits["pattern"] = strings.Replace(pattern, "{1,", "{0,", 1)
	}
}

// valueLimits returns the limits of a single value.
func valueLimits(field protoreflect.FieldDescriptor, rules *validate.FieldRules) object {
	limits := object{}
	rules.ProtoReflect().Range(func(kind protoreflect.FieldDescriptor, ofKind protoreflect.Value) bool {
		if kind.Message() == nil || kind.Name() == "int64" { // which is a string in JSON
			return true
		}
		ofKind.Message().Range(func(rule protoreflect.FieldDescriptor, value protoreflect.Value) bool {
			if keyword := keywords[rule.Name()]; keyword != "" && rule.Message() == nil {
				limits[keyword] = value.Interface()
			}
			return true
		})
		return true
	})
	if others := rules.GetString().GetNotIn(); len(others) > 0 {
		limits["not"] = object{"enum": others}
	}
	if rules.GetInt64() != nil {
		limits["pattern"] = "^[0-9]{1,16}$"
	}
	if in := rules.GetEnum().GetIn(); len(in) > 0 {
		var names []any
		for _, number := range in {
			names = append(names, string(field.Enum().Values().ByNumber(protoreflect.EnumNumber(number)).Name()))
		}
		limits["enum"] = names
	}
	if rules.GetDuration() != nil {
		limits["pattern"], limits["example"] = "^[0-9]{1,7}s$", "3600s"
	}
	if in := rules.GetFieldMask().GetIn(); len(in) > 0 {
		path := "(" + strings.ReplaceAll(strings.Join(in, "|"), ".", `\.`) + ")"
		limits["pattern"] = "^" + path + "(," + path + ")*$"
	}
	return limits
}
