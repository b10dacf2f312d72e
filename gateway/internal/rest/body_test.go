package rest

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// slowBody sends size bytes in each interval, until the read deadline.
type slowBody struct {
	http.ResponseWriter
	interval time.Duration
	size     int
	deadline time.Time
}

func (b *slowBody) SetReadDeadline(deadline time.Time) error {
	b.deadline = deadline
	return nil
}

func (b *slowBody) Read(p []byte) (int, error) {
	if left := time.Until(b.deadline); left < b.interval {
		time.Sleep(left)
		return 0, os.ErrDeadlineExceeded
	}
	time.Sleep(b.interval)
	return min(b.size, len(p)), nil
}

func TestBody_MustArriveAtOneKiBPerSecond_AfterTenSeconds(t *testing.T) {
	for _, test := range []struct {
		interval time.Duration
		size     int
		want     time.Duration
	}{
		{time.Second, 1024, 70 * time.Second}, // the timeout of the request
		{time.Second, 512, 19 * time.Second},
		{9 * time.Second, 1, 10 * time.Second},
		{time.Minute, 1, 10 * time.Second},
		{6 * time.Second, 8 << 10, 70 * time.Second},
	} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 70*time.Second)
			defer cancel()
			source := &slowBody{httptest.NewRecorder(), test.interval, test.size, time.Time{}}
			request := httptest.NewRequestWithContext(ctx, "POST", "/", source)
			body := newPacedBody(source, request)
			started := time.Now()
			_, err := io.Copy(io.Discard, body)
			if got := time.Since(started).Round(10 * time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) || got != test.want {
				t.Errorf("%d bytes in %v: %v after %v", test.size, test.interval, err, got)
			}
		})
	}
}

func TestBody_IsNotSlow_WhileTheGatewayDoesNotRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 70*time.Second)
		defer cancel()
		source := &slowBody{httptest.NewRecorder(), 6 * time.Second, 1 << 10, time.Time{}}
		body := newPacedBody(source, httptest.NewRequestWithContext(ctx, "POST", "/", source))
		time.Sleep(30 * time.Second) // it waits for memory
		if n, err := body.Read(make([]byte, 2<<10)); n != 1<<10 || err != nil {
			t.Errorf("%d %v", n, err)
		}
	})
}

func TestBody_LeavesTheDeadlineOfTheRequest_WhileTheGatewayDoesNotRead(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 70*time.Second)
	defer cancel()
	source := &slowBody{ResponseWriter: httptest.NewRecorder()}
	body := newPacedBody(source, httptest.NewRequestWithContext(ctx, "POST", "/", strings.NewReader("{}")))
	want, _ := ctx.Deadline()
	for _, end := range []error{nil, io.EOF} {
		if _, err := body.Read(make([]byte, 2)); err != end || source.deadline != want {
			t.Errorf("%v %v, want %v %v", err, source.deadline, end, want)
		}
	}
}
