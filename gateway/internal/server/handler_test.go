package server

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
	"github.com/jobs-grpc/jobs-grpc/gateway/internal/apierror"
	"github.com/jobs-grpc/jobs-grpc/gateway/internal/gatewaytest"
)

func TestHandler_ForwardsOnlyAllowedHeaders(t *testing.T) {
	s := &gatewaytest.Stub{Job: &jobsv1.Job{}}
	gateway := newTestGateway(t, map[string]string{"JOBS_GATEWAY_UPSTREAM": gatewaytest.ServeStub(t, s)})
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

	// gRPC adds these headers itself.
	for _, key := range []string{":authority", "content-type", "user-agent", "grpc-accept-encoding"} {
		delete(s.Metadata, key)
	}
	want := map[string]string{
		"authorization": "Bearer secret", "x-tenant-id": "acme", "x-user-id": "olivia",
		"x-request-id": "r1", "traceparent": trace, "tracestate": "a=b",
	}
	if got := slices.Sorted(maps.Keys(s.Metadata)); !slices.Equal(got, slices.Sorted(maps.Keys(want))) {
		t.Errorf("metadata keys: %v", got)
	}
	for key, value := range want {
		if got := s.Metadata.Get(key); !slices.Equal(got, []string{value}) {
			t.Errorf("%s: %q, want %q once", key, got, value)
		}
	}
}

func TestHandler_SetsUpstreamDeadline_FromTimeouts(t *testing.T) {
	s := &gatewaytest.Stub{Job: &jobsv1.Job{}}
	gateway := newTestGateway(t, map[string]string{
		"JOBS_GATEWAY_UPSTREAM": gatewaytest.ServeStub(t, s), "JOBS_GATEWAY_REQUEST_TIMEOUT": "20",
	})
	for _, c := range []struct {
		grpcTimeout string
		want        time.Duration
	}{{"", 20 * time.Second}, {"5S", 5 * time.Second}, {"1H", 20 * time.Second}} {
		header := http.Header{"X-Tenant-Id": {"acme"}}
		if c.grpcTimeout != "" {
			header.Set("Grpc-Timeout", c.grpcTimeout)
		}
		before := time.Now()
		get(gateway, "/customer/jobs/a", header)
		after := time.Now()
		if !s.HasDeadline || s.Deadline.Before(before.Add(c.want)) || s.Deadline.After(after.Add(c.want)) {
			t.Errorf("Grpc-Timeout %q: the deadline is %v after the call, want %v",
				c.grpcTimeout, s.Deadline.Sub(before), c.want)
		}
	}
}

// Jobs may have the IDs "." and ".." from before they were refused. Most HTTP clients resolve such paths, hence a test in Go.
func TestResponseHeaders_KeepJobIDs_WhenDots(t *testing.T) {
	s := &gatewaytest.Stub{Job: &jobsv1.Job{NextExecutionsPageToken: "more"}}
	gateway := newTestGateway(t, map[string]string{"JOBS_GATEWAY_UPSTREAM": gatewaytest.ServeStub(t, s)})
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

func TestErrorHandler_ConvertsGRPCErrors(t *testing.T) {
	info := func(reason string) *errdetails.ErrorInfo {
		return &errdetails.ErrorInfo{Domain: "jobs-grpc", Reason: reason}
	}
	retry := &errdetails.RetryInfo{RetryDelay: durationpb.New(1200 * time.Millisecond)}
	for _, c := range []struct {
		code    codes.Code
		details []protoadapt.MessageV1
		status  int
		want    apierror.Error
		retry   time.Duration
	}{
		{codes.Unavailable, details(info("DATABASE_UNAVAILABLE"), retry), 503, apierror.Error{Detail: "text", Code: "UNAVAILABLE", Reason: "DATABASE_UNAVAILABLE"}, 1200 * time.Millisecond},
		{codes.ResourceExhausted, details(info("OVERLOADED"), retry), 429, apierror.Error{Detail: "text", Code: "RESOURCE_EXHAUSTED", Reason: "OVERLOADED"}, 1200 * time.Millisecond},
		{codes.PermissionDenied, details(info("ROLE_REQUIRED")), 403, apierror.Error{Detail: "text", Code: "PERMISSION_DENIED", Reason: "ROLE_REQUIRED"}, 0},
		{codes.Aborted, details(info("EXECUTION_CHANGED")), 409, apierror.Error{Detail: "text", Code: "ABORTED", Reason: "EXECUTION_CHANGED"}, 0},
		// Without an ErrorInfo of jobs-grpc the message is replaced.
		{codes.Unavailable, nil, 503, apierror.Error{Detail: "The service is unavailable; retry later", Code: "UNAVAILABLE", Reason: "SERVICE_UNAVAILABLE"}, time.Second},
		// The client has not canceled the request, so the server has reset the call.
		{codes.Canceled, nil, 503, apierror.Error{Detail: "The service is unavailable; retry later", Code: "UNAVAILABLE", Reason: "SERVICE_UNAVAILABLE"}, time.Second},
		{codes.Unimplemented, nil, 501, apierror.Error{Detail: "The service does not implement this method", Code: "UNIMPLEMENTED", Reason: "NOT_IMPLEMENTED"}, 0},
		{codes.Unknown, nil, 500, apierror.Error{Detail: "Internal error", Code: "INTERNAL", Reason: "INTERNAL"}, 0},
		{codes.DataLoss, nil, 500, apierror.Error{Detail: "Internal error", Code: "INTERNAL", Reason: "INTERNAL"}, 0},
	} {
		st, err := status.New(c.code, "text").WithDetails(c.details...)
		if err != nil {
			t.Fatal(err)
		}
		s := &gatewaytest.Stub{Err: st.Err()}
		gateway := newTestGateway(t, map[string]string{"JOBS_GATEWAY_UPSTREAM": gatewaytest.ServeStub(t, s)})

		response := get(gateway, "/customer/jobs/a", http.Header{"X-Tenant-Id": {"acme"}})

		var got apierror.Error
		if err := json.NewDecoder(response.Body).Decode(&got); err != nil {
			t.Fatal(err)
		}
		if response.StatusCode != c.status || got.Detail != c.want.Detail || got.Code != c.want.Code || got.Reason != c.want.Reason {
			t.Errorf("%v: %d %+v, want %d %+v", c.code, response.StatusCode, got, c.status, c.want)
		}
		want := map[time.Duration]string{0: "", time.Second: "1", 1200 * time.Millisecond: "2"}[c.retry]
		if got := response.Header.Get("Retry-After"); got != want {
			t.Errorf("%v: Retry-After %q, want %q", c.code, got, want)
		}
	}
}

func TestHandler_SetsSecurityHeaders(t *testing.T) {
	for age, want := range map[string]string{"": "", "31536000": "max-age=31536000"} {
		gateway := newTestGateway(t, map[string]string{"JOBS_GATEWAY_HSTS_MAX_AGE": age})
		for path, opener := range map[string]string{
			"/": "same-origin", "/docs": "same-origin", "/console/jobs": "same-origin", "/customer/jobs": "", "/none": "",
		} {
			header := get(gateway, path, nil).Header
			if got := header.Get("Strict-Transport-Security"); got != want {
				t.Errorf("%s: Strict-Transport-Security %q, want %q", path, got, want)
			}
			if got := header.Get("Cross-Origin-Opener-Policy"); got != opener {
				t.Errorf("%s: Cross-Origin-Opener-Policy %q, want %q", path, got, opener)
			}
		}
	}
}

func details(all ...protoadapt.MessageV1) []protoadapt.MessageV1 { return all }
