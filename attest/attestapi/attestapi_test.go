package attestapi

import (
	"bytes"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/rootvouch/rootvouch/boot/bootlog"
	"github.com/rootvouch/rootvouch/evidence"
)

func TestRoundTrip(t *testing.T) {
	q := Request{Version: 1, Nonce: evidence.Nonce{1, 2}}
	if got, err := DecodeRequest(q.Encode()); err != nil || got != q {
		t.Errorf("got %v, %v, want %v", got, err, q)
	}
	r := Response{Version: 1, Evidence: []byte("<evidence>"), BootLog: []byte("boot\nlog")}
	got, err := DecodeResponse(r.Encode())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(r, got); diff != "" {
		t.Error(diff)
	}
	p := Problem{Version: 1, Error: "too many"}
	if got, err := DecodeProblem(p.Encode()); err != nil || got != p {
		t.Errorf("got %v, %v, want %v", got, err, p)
	}
}

// The largest documents that there are fit.
func TestLimits(t *testing.T) {
	r := Response{Version: 1, Evidence: make([]byte, evidence.MaxSize), BootLog: make([]byte, bootlog.MaxSize)}
	if size := len(r.Encode()); size > MaxResponse {
		t.Errorf("the largest response has %d bytes, limit is %d", size, MaxResponse)
	}
	if size := len((Request{Version: 1}).Encode()); size > MaxRequest {
		t.Errorf("a request has %d bytes, limit is %d", size, MaxRequest)
	}
}

func TestDecodeRefuses(t *testing.T) {
	good := string(Request{Version: 1, Nonce: evidence.Nonce{1}}.Encode())
	for _, c := range []struct{ name, data, want string }{
		{"empty", "", "EOF"},
		{"version", strings.Replace(good, "1", "2", 1), "version is 2"},
		{"no nonce", `{"version":1}`, "nonce"},
		{"unknown member", strings.Replace(good, "{", `{"x":1,`, 1), "x"},
		{"white space", strings.Replace(good, ":", ": ", 1), "canonical"},
		{"other order", `{"nonce":"` + evidence.Nonce{1}.String() + `","version":1}`, "canonical"},
		{"short nonce", `{"version":1,"nonce":"AQ=="}`, "nonce"},
		{"trailing data", good + "{}", "after"},
		{"too long", good + strings.Repeat(" ", MaxRequest), "at most 1024"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := DecodeRequest([]byte(c.data)); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got error %v, want one with %q", err, c.want)
			}
		})
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(Request{Version: 1}.Encode())
	f.Add(Response{Version: 1, Evidence: []byte{1}, BootLog: []byte{2}}.Encode())
	f.Add(Problem{Version: 1, Error: "x"}.Encode())
	f.Fuzz(func(t *testing.T, data []byte) {
		if q, err := DecodeRequest(data); err == nil && !bytes.Equal(q.Encode(), data) {
			t.Errorf("request %q encodes to %q", data, q.Encode())
		}
		if r, err := DecodeResponse(data); err == nil && !bytes.Equal(r.Encode(), data) {
			t.Errorf("response %q encodes to %q", data, r.Encode())
		}
		if p, err := DecodeProblem(data); err == nil && !bytes.Equal(p.Encode(), data) {
			t.Errorf("problem %q encodes to %q", data, p.Encode())
		}
	})
}
