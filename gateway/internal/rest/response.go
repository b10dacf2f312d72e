package rest

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	jobsv1 "github.com/jobs-grpc/jobs-grpc/gateway/gen/fleet/jobs/v1"
	"github.com/jobs-grpc/jobs-grpc/gateway/internal/routes"
)

// setResponseHeaders sets the status 201 and Location of what was created, the headers that point to
// the next page of a list, and X-Poll-After for devices. grpc-gateway calls it before it writes
// the body.
func setResponseHeaders(ctx context.Context, w http.ResponseWriter, response proto.Message) error {
	m := routes.MatchFromContext(ctx)
	if response, ok := response.(interface{ GetPollAfter() *durationpb.Duration }); ok && response.GetPollAfter() != nil {
		// Duration.Seconds() has rounding errors: 3.7880000000000003.
		milliseconds := response.GetPollAfter().AsDuration().Round(time.Millisecond).Milliseconds()
		w.Header().Set("X-Poll-After", strconv.FormatFloat(float64(milliseconds)/1000, 'f', -1, 64))
	}
	switch response := response.ProtoReflect().Interface().(type) {
	case *jobsv1.CreateJobResponse:
		if response.GetPreview() != nil { // validate_only: nothing was created
			return nil
		}
		// JoinPath would resolve the IDs "." and "..".
		w.Header().Set("Location", m.Path()+"/"+routes.EscapeSegment(response.GetJobId()))
		w.WriteHeader(http.StatusCreated)
	case *jobsv1.CreateWebhookResponse:
		w.Header().Set("Location", m.Path()+"/"+response.GetWebhook().GetWebhookId())
		w.WriteHeader(http.StatusCreated)
	case interface{ GetNextPageToken() string }: // every list
		setNextPage(w, m.Path(), m.Query, response.GetNextPageToken())
	case *jobsv1.GetJobResponse:
		setNextPage(w, m.Path()+"/executions", url.Values{}, response.GetJob().GetNextExecutionsPageToken())
	}
	return nil
}

// setNextPage sets X-Next-Page-Token and Link, unless token is empty: then this is the last page.
func setNextPage(w http.ResponseWriter, path string, query url.Values, token string) {
	if token == "" {
		return
	}
	query.Del("offset") // the token includes the position
	query.Set("page_token", token)
	w.Header().Set("X-Next-Page-Token", token)
	w.Header().Set("Link", "<"+path+"?"+query.Encode()+`>; rel="next"`)
}
