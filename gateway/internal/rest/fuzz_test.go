package rest

import (
	"encoding/json"
	"net/http/httptest"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/jobs-grpc/jobs-grpc/gateway/internal/gatewaytest"
)

// Any body is decoded into a valid message, or refused as the client's mistake.
func FuzzBody(f *testing.F) {
	for _, body := range []string{
		``, `{}`, `{"job_id": "j"} {}`, `{"job_id": "a", "job_id": "b"}`, `[[[`, `{"job_id": "\ud800", "jobId": 1}`,
		`{"job_id": "j", "document_type": "t", "document_params": {"a": [9007199254740993, 1e400]}, "target_all": true, "expires_in_hours": null}`,
		`{"target_selector": "a", "target_device_ids": ["d"], "rollout": {"stages": [{"count": 1, "gate": {"after": "60s"}}]}}`,
		`{"update_mask": "rollout.max_in_progress,labels", "labels": {"k": "v"}, "status": "SUCCEEDED", "statuses": ["FAILED", 3]}`,
		`{"devices": [{"device_id": "d", "labels": {"ring": ""}}], "status_details": {"progress": {"percent": 5}}}`,
	} {
		f.Add(uint8(0), []byte(body))
		f.Add(uint8(7), []byte(body))
	}
	methods := gatewaytest.UnaryMethods()
	f.Fuzz(func(t *testing.T, number uint8, body []byte) {
		request := gatewaytest.NewMessage(methods[int(number)%len(methods)].Input())
		if e := decodeMessage(body, request.ProtoReflect(), map[string]string{"device_id": "d"}); e != nil {
			if text := e.Body(httptest.NewRecorder()); e.HTTPStatus != 400 || !json.Valid(text) {
				t.Errorf("%d %s", e.HTTPStatus, text)
			}
			return
		}
		if _, err := protojson.Marshal(request); err != nil {
			t.Error(err)
		}
	})
}
