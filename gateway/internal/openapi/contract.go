package main

import (
	"os"
	"regexp"
	"slices"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"

	jobsv1 "github.com/jobs-grpc/jobs-grpc/gateway/gen/fleet/jobs/v1"
)

// contract holds the summaries of methods, and the comments that describe errors.
type contract struct {
	// The error reasons of each method by the name of their gRPC status code, including the reasons that
	// all methods share.
	methodErrors map[string]map[string][]string
	// The summary of each method.
	summaries map[string]string
	// What each reason means, in Markdown.
	meanings map[string]string
}

// readContract reads a serialized FileDescriptorSet with source info.
func readContract(path string) *contract {
	set := &descriptorpb.FileDescriptorSet{}
	must(set, proto.Unmarshal(must(os.ReadFile(path)), set))
	files := must(protodesc.NewFiles(set))
	c := &contract{map[string]map[string][]string{}, map[string]string{}, map[string]string{}}
	common := map[string][]string{}
	for _, name := range []string{"JobService", "FleetService", "EventService", "DeviceJobService"} { // the last adds to the errors of the first
		c.readService(find(files, name).(protoreflect.ServiceDescriptor), common)
	}
	values := find(files, "ErrorReason").(protoreflect.EnumDescriptor).Values()
	for i := range values.Len() {
		first, _, _ := strings.Cut(comment(values.Get(i)), "\n\n")
		c.meanings[string(values.Get(i).Name())] = strings.Join(strings.Fields(first), " ")
	}
	return c
}

func find(files *protoregistry.Files, name string) protoreflect.Descriptor {
	return must(files.FindDescriptorByName(protoreflect.FullName(packagePrefix + name)))
}

func (c *contract) readService(service protoreflect.ServiceDescriptor, common map[string][]string) {
	// The comment of a service first lists the errors of every call, and then those of streams.
	errors, _, _ := strings.Cut(comment(service), "In addition, a stream")
	addErrors(common, errors)
	for i := range service.Methods().Len() {
		method := service.Methods().Get(i)
		all := map[string][]string{}
		for status, reasons := range common {
			all[status] = slices.Clone(reasons)
		}
		addErrors(all, comment(method))
		c.methodErrors[string(method.Name())] = all
		c.summaries[string(method.Name())] = proto.GetExtension(method.Options(), jobsv1.E_Method).(*jobsv1.MethodRules).Summary
	}
}

var (
	errorLine  = regexp.MustCompile(`^ {2,}([A-Z_]+) {2,}(\S.*)$`)
	reasonName = regexp.MustCompile(`\b[A-Z]+_[A-Z_]+\b|^[A-Z]{5,}\b`)
)

// addErrors adds the reasons of lines such as "  NOT_FOUND   JOB_NOT_FOUND, only if …", which may
// continue on the next line.
func addErrors(errors map[string][]string, text string) {
	status := ""
	for line := range strings.SplitSeq(text, "\n") {
		reasons := strings.TrimSpace(line)
		if m := errorLine.FindStringSubmatch(line); m != nil && code.Code_value[m[1]] != 0 {
			status, reasons = m[1], m[2]
		} else if reasons == "" || !strings.HasPrefix(line, strings.Repeat(" ", 10)) {
			status = ""
		}
		if status == "" {
			continue
		}
		reasons, _, _ = strings.Cut(reasons, ":") // an explanation follows
		for _, reason := range reasonName.FindAllString(reasons, -1) {
			if !strings.HasPrefix(reason, "JOBS_") {
				errors[status] = append(errors[status], reason)
			}
		}
	}
}

// withoutErrors returns the text of a comment without its error lines, which become responses.
func withoutErrors(text string) string {
	var kept []string
	inErrors := false
	for line := range strings.SplitSeq(text, "\n") {
		m := errorLine.FindStringSubmatch("  " + line)
		inErrors = m != nil && code.Code_value[m[1]] != 0 || inErrors && strings.HasPrefix(line, " ")
		if !inErrors {
			kept = append(kept, line)
		}
	}
	return strings.TrimSpace(strings.Join(kept, "\n"))
}

// comment returns the comment of a declaration without the space after //.
func comment(d protoreflect.Descriptor) string {
	return leadingSpace.ReplaceAllString(d.ParentFile().SourceLocations().ByDescriptor(d).LeadingComments, "")
}

var leadingSpace = regexp.MustCompile(`(?m)^ `)
