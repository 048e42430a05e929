package health

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/rootvouch/rootvouch/kms/keyapi"
	"github.com/rootvouch/rootvouch/pins"
)

func TestHealth(t *testing.T) {
	var ill, dead error
	var out bytes.Buffer
	h := New(slog.New(slog.NewTextHandler(&out, nil)),
		[]Check{{Name: "crl", Do: func() error { return ill }}, {Name: "store", Fatal: true, Do: func() error { return dead }}},
		[]Gauge{{Name: "log_size", Help: "Leaves.", Read: func() float64 { return 7 }}})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- h.Serve(ctx, l) }()
	get := func(path string) (int, string) {
		t.Helper()
		response, err := http.Get("http://" + l.Addr().String() + path)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		data, err := io.ReadAll(response.Body)
		if err != nil {
			t.Fatal(err)
		}
		return response.StatusCode, string(data)
	}
	h.Answered("release", "", time.Millisecond)
	h.Answered("release", keyapi.CodeDenied, time.Second)
	for _, c := range []struct {
		ill, dead   error
		live, ready int
		say         string
	}{
		{nil, nil, 200, 200, "ok"},
		{errors.New("it is stale"), nil, 200, 503, "crl: it is stale"},
		{nil, errors.New("it is broken"), 503, 503, "store: it is broken"},
		{nil, nil, 200, 200, "ok"},
	} {
		ill, dead = c.ill, c.dead
		h.Note()
		h.Note() // says nothing new
		if got, _ := get("/live"); got != c.live {
			t.Errorf("%+v: /live is %d", c, got)
		}
		if got, said := get("/ready"); got != c.ready || !strings.Contains(said, c.say) {
			t.Errorf("%+v: /ready is %d, %q", c, got, said)
		}
		_, metrics := get("/metrics")
		want := `rootvouch_kms_ill{check="crl"} 0`
		if c.ill != nil {
			want = `rootvouch_kms_ill{check="crl"} 1`
		}
		for _, want := range []string{want, "rootvouch_kms_log_size 7", `rootvouch_kms_answer_seconds_count{code="ok",request="release"} 1`,
			`rootvouch_kms_answer_seconds_count{code="denied",request="release"} 1`} {
			if !strings.Contains(metrics, want) {
				t.Errorf("metrics lack %q:\n%s", want, metrics)
			}
		}
	}
	if got, _ := get("/"); got != http.StatusNotFound {
		t.Errorf("/ is %d, want 404", got)
	}
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if ills, wells := strings.Count(out.String(), "msg=ill"), strings.Count(out.String(), `msg="well again"`); ills != 2 || wells != 2 {
		t.Errorf("log has %d ills and %d wells, want 2 and 2:\n%s", ills, wells, &out)
	}
}

// TestCapped: launches beyond a record's bound are a figure, and an alarm that the log of the
// server has as well.
func TestCapped(t *testing.T) {
	var out bytes.Buffer
	h := New(slog.New(slog.NewTextHandler(&out, nil)), nil, nil)
	h.Note()
	h.Refused(pins.UUID{1}, []string{"MEASUREMENT", "cap"})
	h.Note()
	if err := h.Ready(); err != nil {
		t.Errorf("one disk's bound makes the server ill: %v", err)
	}
	if !strings.Contains(out.String(), `level=ERROR msg=ill check=cap err="disk 01000000-`) {
		t.Errorf("log is %s", &out)
	}
	answer := httptest.NewRecorder()
	h.Handler().ServeHTTP(answer, httptest.NewRequest("GET", "/metrics", nil))
	for _, want := range []string{`rootvouch_kms_refusals_total{check="cap"} 1`, `rootvouch_kms_refusals_total{check="MEASUREMENT"} 1`, `rootvouch_kms_ill{check="cap"} 1`} {
		if !strings.Contains(answer.Body.String(), want) {
			t.Errorf("metrics lack %s", want)
		}
	}
}
