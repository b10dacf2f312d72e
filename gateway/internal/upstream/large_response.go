// Need: the limit max-buffered-bytes. Attack: gateway-unread-responses.

package upstream

import (
	"context"
	"path"
	"time"

	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"

	jobsv1 "github.com/jobs-grpc/jobs-grpc/gateway/gen/fleet/jobs/v1"
	"github.com/jobs-grpc/jobs-grpc/gateway/internal/apierror"
	"github.com/jobs-grpc/jobs-grpc/gateway/internal/config"
	"github.com/jobs-grpc/jobs-grpc/gateway/internal/limits"
)

// messageRetry is how long a response waits after a reservation that failed at once, because the server
// did not accept the caller.
const messageRetry = 50 * time.Millisecond

func maxBytes(content jobsv1.MethodRules_Content) int64 {
	options := content.Descriptor().Values().ByNumber(content.Number()).Options()
	return int64(proto.GetExtension(options, jobsv1.E_MaxBytes).(int32))
}

// largeResponse describes a response that can be larger than one document. The zero value is any other response.
type largeResponse struct {
	bytes int64 // maximum
	// The call has an effect, so it must not fail after the server has responded.
	writes bool
}

// largeResponses has the methods whose responses can be large, by their names, from the options of the contract.
var largeResponses = func() map[string]largeResponse {
	all := map[string]largeResponse{}
	protoregistry.GlobalFiles.RangeFilesByPackage("fleet.jobs.v1", func(file protoreflect.FileDescriptor) bool {
		for i := range file.Services().Len() {
			methods := file.Services().Get(i).Methods()
			for j := range methods.Len() {
				if large := largeResponseOfMethod(methods.Get(j)); large.bytes > 0 {
					all[string(methods.Get(j).Name())] = large
				}
			}
		}
		return true
	})
	return all
}()

func largeResponseOfMethod(method protoreflect.MethodDescriptor) largeResponse {
	options := method.Options().(*descriptorpb.MethodOptions)
	large := largeResponse{
		bytes:  maxBytes(proto.GetExtension(options, jobsv1.E_Method).(*jobsv1.MethodRules).GetResponse()),
		writes: options.GetIdempotencyLevel() != descriptorpb.MethodOptions_NO_SIDE_EFFECTS,
	}
	for i := range method.Input().Fields().Len() {
		if proto.HasExtension(method.Input().Fields().Get(i).Options(), jobsv1.E_DefaultPageSize) {
			large.bytes = config.MaxResponseBytes
		}
	}
	return large
}

func (l largeResponse) reads() bool { return l.bytes > 0 && !l.writes }

// largeResponseOf describes the response of a method.
func largeResponseOf(method string) largeResponse {
	return largeResponses[path.Base(method)]
}

// reserveBeforeWrite reserves the memory of a large response before a call that has an effect. It waits,
// unless the request holds memory already: requests that hold some and wait for more could block each other.
func reserveBeforeWrite(ctx context.Context, memory *limits.RequestMemory, amount int64) *apierror.Error {
	if memory.Buffers.Held > 0 {
		return memory.Buffers.Resize(amount)
	}
	return memory.Buffers.Reserve(ctx, amount)
}

// reserveForMessage reserves the memory of the decoded message. A large response to a call that has had an
// effect waits until the deadline: other requests hold such memory only while they convert a response. Small
// ones are decoded in any case.
func reserveForMessage(ctx context.Context, memory *limits.RequestMemory, response []byte, large largeResponse) error {
	size := memory.Limits.DecodedResponseSize(response)
	for {
		e := memory.Messages.Reserve(ctx, size)
		switch {
		case e == nil || large.bytes == 0:
			return nil
		case !large.writes:
			return e
		}
		select {
		case <-ctx.Done():
			return status.FromContextError(ctx.Err()).Err()
		case <-time.After(messageRetry):
		}
	}
}
