package main

import (
	"maps"
	"regexp"
	"strconv"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	jobsv1 "github.com/jobs-grpc/jobs-grpc/gateway/gen/fleet/jobs/v1"
)

// The contract states limits in the comments of fields in one of these forms.
var (
	rangeText    = regexp.MustCompile(`(\d+)–(\d+)`)
	idText       = regexp.MustCompile(`(\d+)–(\d+)( characters of A-Z a-z 0-9 \. _ : -)`)
	textRange    = regexp.MustCompile(`(\d+)–(\d+) characters`)
	maximumChars = regexp.MustCompile(`[Aa]t most (\d+) characters`)
	maximumItems = regexp.MustCompile(`[Aa]t most (\d+)`)
)

// namedLimits are the limits of text fields by name. Comments leave them out where they are obvious.
var namedLimits = map[string]object{
	"created_by":       {"maxLength": 256, "pattern": noControl},
	"device_id":        id,
	"device_ids":       id,
	"document_type":    {"maxLength": 100, "pattern": noControl},
	"etag":             {"maxLength": 64},
	"failure_code":     {"pattern": "^[A-Za-z0-9._:-]{0,64}$"},
	"failure_codes":    {"pattern": "^[A-Za-z0-9._:-]{0,64}$"},
	"job_id":           {"pattern": "^[A-Za-z0-9._:-]{1,128}$"},
	"target_device_id": id,
	"target_group_id":  id,
}

var id = object{"minLength": 1, "maxLength": 256, "pattern": noControl}

const (
	noControl = `^[^\x00-\x1f\x7f-\x9f]*$`
	noNull    = `^[^\x00]*$`
)

// limitsOf returns the limits of a field of a request as keywords of its schema.
func limitsOf(field protoreflect.FieldDescriptor, description string) object {
	description = strings.Join(strings.Fields(enumValues.ReplaceAllString(description, "")), " ")
	mayBeEmpty := strings.Contains(description, "Empty:") || strings.Contains(description, "May be empty")
	limits := object{}
	switch {
	case field.IsList():
		if m := rangeText.FindStringSubmatch(description); m != nil {
			limits["minItems"], limits["maxItems"] = number(m[1]), number(m[2])
		} else if m := maximumItems.FindStringSubmatch(description); m != nil {
			limits["maxItems"] = number(m[1])
		}
		if strings.HasPrefix(description, "Required") {
			limits["minItems"] = 1
		}
		if item := namedLimits[string(field.Name())]; item != nil {
			limits["items"] = maps.Clone(item)
			limits["items"].(object)["type"] = "string"
		}
	case field.Kind() == protoreflect.Int32Kind:
		if m := rangeText.FindStringSubmatch(description); m != nil {
			limits["minimum"], limits["maximum"] = number(m[1]), number(m[2])
		} else if strings.Contains(description, "0 or more") {
			limits["minimum"] = 0
		}
		if size := proto.GetExtension(field.Options(), jobsv1.E_DefaultPageSize).(int32); size > 0 {
			limits["default"] = size
		}
	case field.Kind() == protoreflect.StringKind:
		maps.Copy(limits, namedLimits[string(field.Name())])
		if m := idText.FindStringSubmatch(description); m != nil {
			minimum := m[1]
			if mayBeEmpty {
				minimum = "0"
			}
			limits["pattern"] = "^[A-Za-z0-9._:-]{" + minimum + "," + m[2] + "}$"
		} else if m := textRange.FindStringSubmatch(description); m != nil {
			limits["minLength"], limits["maxLength"] = number(m[1]), number(m[2])
		} else if m := maximumChars.FindStringSubmatch(description); m != nil && limits["pattern"] == nil {
			limits["maxLength"] = number(m[1])
		}
		if strings.Contains(description, "no control characters") {
			limits["pattern"] = noControl
		} else if strings.Contains(description, "not U+0000") {
			limits["pattern"] = noNull
		}
		if mayBeEmpty {
			delete(limits, "minLength")
		}
	}
	return limits
}

func number(text string) int {
	n, _ := strconv.Atoi(text) // the pattern has only digits
	return n
}
