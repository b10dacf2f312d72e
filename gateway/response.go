package main

import (
	"context"
	"net/http"
	"net/url"

	"google.golang.org/protobuf/proto"

	jobsv1 "github.com/jobs-grpc/jobs-grpc/gateway/gen/fleet/jobs/v1"
)

type urlKey struct{}

// withURL keeps the request's URL for the links of its answer.
func withURL(ctx context.Context, u *url.URL) context.Context {
	return context.WithValue(ctx, urlKey{}, u)
}

// shapeAnswer sets what the body does not hold: 201, and where to read on. The library
// calls it before it writes the body.
func shapeAnswer(ctx context.Context, w http.ResponseWriter, response proto.Message) error {
	here, ok := ctx.Value(urlKey{}).(*url.URL)
	if !ok {
		return nil
	}
	switch response := response.ProtoReflect().Interface().(type) {
	case *jobsv1.CreateJobResponse:
		// Job ids need no escapes. JoinPath would resolve the ids "." and "..".
		w.Header().Set("Location", here.EscapedPath()+"/"+response.GetJobId())
		w.WriteHeader(http.StatusCreated)
	case *jobsv1.ListJobsResponse:
		linkNext(w, here.EscapedPath(), here.Query(), response.GetNextPageToken())
	case *jobsv1.ListJobExecutionsResponse:
		linkNext(w, here.EscapedPath(), here.Query(), response.GetNextPageToken())
	case *jobsv1.GetJobResponse:
		linkNext(w, here.EscapedPath()+"/executions", url.Values{}, response.GetJob().GetNextExecutionsPageToken())
	}
	return nil
}

func linkNext(w http.ResponseWriter, path string, query url.Values, token string) {
	if token == "" {
		return
	}
	query.Del("offset") // a token stands for a place of its own
	query.Set("page_token", token)
	w.Header().Set("X-Next-Page-Token", token)
	w.Header().Set("Link", "<"+path+"?"+query.Encode()+`>; rel="next"`)
}
