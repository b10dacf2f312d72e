package watch

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	jobsv1 "github.com/jobs-grpc/jobs-grpc/gateway/gen/fleet/jobs/v1"
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
