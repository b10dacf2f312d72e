package main

import (
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"

	jobsv1 "github.com/jobs-grpc/jobs-grpc/gateway/gen/fleet/jobs/v1"
)

func TestOnlyTheAllowListBecomesMetadata(t *testing.T) {
	s := &stub{job: &jobsv1.Job{}}
	gateway := newGateway(t, map[string]string{"JOBS_GATEWAY_UPSTREAM": serveStub(t, s)})
	trace := "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

	get(gateway, "/customer/jobs/a", http.Header{
		"Authorization":             {"Bearer secret"},
		"X-Tenant-Id":               {"acme"},
		"X-User-Id":                 {"olivia"},
		"X-Request-Id":              {"r1"},
		"Traceparent":               {trace},
		"Tracestate":                {"a=b"},
		"Cookie":                    {"c=d"},
		"Grpc-Metadata-X-Tenant-Id": {"evil"},
		"Grpc-Metadata-Anything":    {"evil"},
		"Grpc-Metadata-Data-Bin":    {"ZXZpbA=="},
		"X-Forwarded-For":           {"10.0.0.1"},
		"X-Forwarded-Host":          {"inside.example.com"},
		"Grpcgateway-X-Tenant-Id":   {"evil"},
		"X-Internal-Role":           {"admin"},
	})

	// What gRPC itself adds is not the client's.
	for _, own := range []string{":authority", "content-type", "user-agent", "grpc-accept-encoding"} {
		delete(s.metadata, own)
	}
	want := map[string]string{
		"authorization": "Bearer secret", "x-tenant-id": "acme", "x-user-id": "olivia",
		"x-request-id": "r1", "traceparent": trace, "tracestate": "a=b",
	}
	if got := slices.Sorted(maps.Keys(s.metadata)); !slices.Equal(got, slices.Sorted(maps.Keys(want))) {
		t.Errorf("metadata keys: %v", got)
	}
	for key, value := range want {
		if got := s.metadata.Get(key); !slices.Equal(got, []string{value}) {
			t.Errorf("%s: %q, want %q once", key, got, value)
		}
	}
}

func TestTimeoutsReachTheServerAsDeadlines(t *testing.T) {
	s := &stub{job: &jobsv1.Job{}}
	gateway := newGateway(t, map[string]string{
		"JOBS_GATEWAY_UPSTREAM": serveStub(t, s), "JOBS_GATEWAY_TIMEOUT": "20",
	})
	for _, c := range []struct {
		sent string
		want time.Duration
	}{{"", 20 * time.Second}, {"5S", 5 * time.Second}, {"1H", 20 * time.Second}} {
		header := http.Header{"X-Tenant-Id": {"acme"}}
		if c.sent != "" {
			header.Set("Grpc-Timeout", c.sent)
		}
		before := time.Now()
		get(gateway, "/customer/jobs/a", header)
		after := time.Now()
		if !s.hasDeadline || s.deadline.Before(before.Add(c.want)) || s.deadline.After(after.Add(c.want)) {
			t.Errorf("Grpc-Timeout %q: the server's deadline is %v after the call, want %v",
				c.sent, s.deadline.Sub(before), c.want)
		}
	}
}

// Such ids are allowed. Most HTTP clients resolve these paths unless told not to.
func TestIdsOfDotsAreNotResolved(t *testing.T) {
	s := &stub{job: &jobsv1.Job{NextExecutionsPageToken: "more"}}
	gateway := newGateway(t, map[string]string{"JOBS_GATEWAY_UPSTREAM": serveStub(t, s)})
	header := http.Header{"X-Tenant-Id": {"acme"}}
	for _, id := range []string{".", ".."} {
		created := send(gateway, http.MethodPost, "/customer/jobs", header, `{"job_id": "`+id+`"}`)
		if got, want := created.Header.Get("Location"), "/customer/jobs/"+id; got != want {
			t.Errorf("Location %q, want %q", got, want)
		}
		want := "</customer/jobs/" + id + `/executions?page_token=more>; rel="next"`
		if got := get(gateway, "/customer/jobs/"+id, header).Header.Get("Link"); got != want {
			t.Errorf("Link %q, want %q", got, want)
		}
	}
}

func TestErrorsOfTheServer(t *testing.T) {
	info := func(reason string) *errdetails.ErrorInfo {
		return &errdetails.ErrorInfo{Domain: errorDomain, Reason: reason}
	}
	retry := &errdetails.RetryInfo{RetryDelay: durationpb.New(1200 * time.Millisecond)}
	for _, c := range []struct {
		code    codes.Code
		details []protoadapt.MessageV1
		status  int
		want    problem
	}{
		{codes.Unavailable, m(info("DATABASE_UNAVAILABLE")), 503, problem{"text", "UNAVAILABLE", "DATABASE_UNAVAILABLE", nil, nil, 0, 0}},
		{codes.ResourceExhausted, m(info("OVERLOADED"), retry), 429, problem{"text", "RESOURCE_EXHAUSTED", "OVERLOADED", nil, nil, 0, 1200 * time.Millisecond}},
		{codes.PermissionDenied, m(info("ROLE")), 403, problem{"text", "PERMISSION_DENIED", "ROLE", nil, nil, 0, 0}},
		{codes.Aborted, m(info("VERSION")), 409, problem{"text", "ABORTED", "VERSION", nil, nil, 0, 0}},
		// Without the service's ErrorInfo the text is not for callers.
		{codes.Unavailable, nil, 503, problem{fixedTexts[codes.Unavailable].Detail, "UNAVAILABLE", "SERVICE_UNAVAILABLE", nil, nil, 0, 0}},
		{codes.Unimplemented, nil, 501, problem{fixedTexts[codes.Unimplemented].Detail, "UNIMPLEMENTED", "NOT_IMPLEMENTED", nil, nil, 0, 0}},
		{codes.Unknown, nil, 500, problem{"Internal error", "INTERNAL", "INTERNAL", nil, nil, 0, 0}},
		{codes.DataLoss, nil, 500, problem{"Internal error", "INTERNAL", "INTERNAL", nil, nil, 0, 0}},
	} {
		st, err := status.New(c.code, "text").WithDetails(c.details...)
		if err != nil {
			t.Fatal(err)
		}
		s := &stub{fail: st.Err()}
		gateway := newGateway(t, map[string]string{"JOBS_GATEWAY_UPSTREAM": serveStub(t, s)})

		response := get(gateway, "/customer/jobs/a", http.Header{"X-Tenant-Id": {"acme"}})

		var got problem
		if err := json.NewDecoder(response.Body).Decode(&got); err != nil {
			t.Fatal(err)
		}
		if response.StatusCode != c.status || got.Detail != c.want.Detail || got.Code != c.want.Code || got.Reason != c.want.Reason {
			t.Errorf("%v: %d %+v, want %d %+v", c.code, response.StatusCode, got, c.status, c.want)
		}
		// Whole seconds, and never less than asked for.
		if got := response.Header.Get("Retry-After"); (got == "2") != (c.want.retryAfter != 0) {
			t.Errorf("%v: Retry-After %q", c.code, got)
		}
	}
}

func m(details ...protoadapt.MessageV1) []protoadapt.MessageV1 { return details }

func TestAPanicIsA500(t *testing.T) {
	panics := http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("secret") })
	response := get(observe(nil, newMetrics(), discard, panics), "/customer/jobs", nil)

	var got problem
	if err := json.NewDecoder(response.Body).Decode(&got); err != nil || response.StatusCode != 500 || got.Detail != "Internal error" {
		t.Errorf("%d %+v %v", response.StatusCode, got, err)
	}
}
