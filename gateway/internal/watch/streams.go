// Need: the streams WatchJob and WatchEvents, which a client can resume at any gateway.

package watch

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"github.com/grpc-ecosystem/grpc-gateway/v2/utilities"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	jobsv1 "github.com/jobs-grpc/jobs-grpc/gateway/gen/fleet/jobs/v1"
	"github.com/jobs-grpc/jobs-grpc/gateway/internal/apierror"
	"github.com/jobs-grpc/jobs-grpc/gateway/internal/limits"
	"github.com/jobs-grpc/jobs-grpc/gateway/internal/restjson"
	"github.com/jobs-grpc/jobs-grpc/gateway/internal/upstream"
)

// ServeJob serves WatchJob: it sends the states of a job until the job is finished.
//
// The ID of an event is a hash of the state. A client that reconnects with Last-Event-ID gets the
// current state only if it differs. If the job is finished and the state is the same, the client gets
// 204, which stops an EventSource.
func (h *Handler) ServeJob(w http.ResponseWriter, r *http.Request, id *limits.Identity, jobID string) {
	states := &jobStates{jobID: jobID, lastID: r.Header.Get("Last-Event-ID")}
	h.serve(w, r, id, h.jobSlots, states, []byte(": heartbeat\n\n"), h.heartbeat)
}

type jobStates struct {
	jobID  string
	lastID string // of the state that the client has; "": none
}

func (s *jobStates) canResume() bool { return s.lastID != "" }

func (s *jobStates) open(ctx context.Context, connection *grpc.ClientConn) (grpc.ClientStream, error) {
	request := &jobsv1.WatchJobRequest{JobId: s.jobID}
	return jobsv1.NewJobServiceClient(connection).WatchJob(ctx, request, grpc.ForceCodecV2(upstream.RawCodec{}))
}

func (s *jobStates) convert(response []byte) (m message, err error) {
	var decoded jobsv1.WatchJobResponse
	if err := proto.Unmarshal(response, &decoded); err != nil {
		return m, err
	}
	body, err := restjson.Marshal(decoded.GetJob())
	if err != nil {
		return m, err
	}
	hash := sha256.Sum256(body)
	status := decoded.GetJob().GetStatus()
	m.isLast = status == jobsv1.Job_COMPLETED || status == jobsv1.Job_CANCELED
	if id := hex.EncodeToString(hash[:8]); id != s.lastID {
		s.lastID = id
		m.text = fmt.Appendf(nil, "id: %s\ndata: %s\n\n", id, body)
	}
	return m, nil
}

// extraWait is the time that the gateway waits longer than the server's heartbeat interval before it sends a heartbeat
// itself, which happens only while the server is unavailable.
const extraWait = 5 * time.Second

// ServeEvents serves WatchEvents: it sends the events of the tenant until the client disconnects.
//
// The ID of an event is its position. A client that reconnects with Last-Event-ID gets the events after it, whatever
// the query says.
func (h *Handler) ServeEvents(w http.ResponseWriter, r *http.Request, id *limits.Identity, query url.Values) {
	request := &jobsv1.WatchEventsRequest{}
	if err := runtime.PopulateQueryParameters(request, query, utilities.NewDoubleArray(nil)); err != nil {
		apierror.MalformedRequest(apierror.CleanParserMessage(err.Error())).Write(w)
		return
	}
	events := &tenantEvents{request: request}
	heartbeat := []byte(": heartbeat\n\n") // the position is not known yet
	if last := r.Header.Get("Last-Event-ID"); last != "" {
		position, err := strconv.ParseUint(last, 10, 63)
		if err != nil {
			apierror.InvalidField("Last-Event-ID", "Last-Event-ID must be the position of an event").Write(w)
			return
		}
		events.resumeAfter(int64(position))
		heartbeat = heartbeatAt(int64(position))
	}
	h.serve(w, r, id, h.eventSlots, events, heartbeat, h.heartbeat+extraWait)
}

type tenantEvents struct {
	request *jobsv1.WatchEventsRequest
	resumes bool // the client has all events up to the position in request
}

func (s *tenantEvents) resumeAfter(position int64) {
	s.request.Start = &jobsv1.WatchEventsRequest_AfterPosition{AfterPosition: position}
	s.resumes = true
}

func (s *tenantEvents) canResume() bool { return s.resumes }

func (s *tenantEvents) open(ctx context.Context, connection *grpc.ClientConn) (grpc.ClientStream, error) {
	return jobsv1.NewEventServiceClient(connection).WatchEvents(ctx, s.request, grpc.ForceCodecV2(upstream.RawCodec{}))
}

func (s *tenantEvents) convert(response []byte) (m message, err error) {
	var decoded jobsv1.WatchEventsResponse
	if err := proto.Unmarshal(response, &decoded); err != nil {
		return m, err
	}
	for _, event := range decoded.GetEvents() {
		body, err := restjson.Marshal(event)
		if err != nil {
			return m, err
		}
		m.text = fmt.Appendf(m.text, "id: %d\ndata: %s\n\n", event.GetPosition(), body)
	}
	s.resumeAfter(decoded.GetPosition())
	m.heartbeat = heartbeatAt(decoded.GetPosition())
	if len(decoded.GetEvents()) == 0 {
		m.text = m.heartbeat
	}
	return m, nil
}

// heartbeatAt returns a heartbeat, which moves Last-Event-ID. It has a name and data, because clients ignore a message
// without data.
func heartbeatAt(position int64) []byte {
	return fmt.Appendf(nil, "event: heartbeat\nid: %d\ndata: {}\n\n", position)
}
