package observability

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/jobs-grpc/jobs-grpc/gateway/internal/apierror"
	"github.com/jobs-grpc/jobs-grpc/gateway/internal/gatewaytest"
)

func TestInstrument_Returns500_WhenHandlerPanics(t *testing.T) {
	panics := http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("secret") })
	recorder := httptest.NewRecorder()
	Instrument(nil, NewMetrics(), nil, NewAccessLog(gatewaytest.DiscardLogger, nil), panics).ServeHTTP(recorder, httptest.NewRequest("GET", "/customer/jobs", nil))

	var got apierror.Error
	if err := json.Unmarshal(recorder.Body.Bytes(), &got); err != nil || recorder.Code != 500 || got.Detail != "Internal error" {
		t.Errorf("%d %+v %v", recorder.Code, got, err)
	}
}
