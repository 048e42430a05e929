package strictjson

import (
	"bytes"
	"testing"
)

func TestExact(t *testing.T) {
	read := func(data string) ([]byte, bool) {
		var id [2]byte
		e := ReadExact([]byte(data))
		e.Text(`{"id":"`)
		e.Hex(id[:])
		e.Text(`","data":"`)
		out := e.Base64()
		e.Text(`"}`)
		return append(id[:], out...), e.End()
	}
	got, ok := read(`{"id":"0aff","data":"AQI="}`)
	if want := []byte{0x0a, 0xff, 1, 2}; !ok || !bytes.Equal(got, want) {
		t.Errorf("got %x, %t, want %x", got, ok, want)
	}
	if _, ok := read(`{"id":"0aff","data":""}`); !ok {
		t.Error("no bytes are refused")
	}
	for name, data := range map[string]string{
		"nothing":                "",
		"a beginning":            `{"id":"0a`,
		"no end":                 `{"id":"0aff","data":"AQI="`,
		"no end of a string":     `{"id":"0aff","data":"AQI=`,
		"something behind":       `{"id":"0aff","data":"AQI="} `,
		"a space":                `{"id": "0aff","data":"AQI="}`,
		"another order":          `{"data":"AQI=","id":"0aff"}`,
		"upper-case hex":         `{"id":"0aFf","data":"AQI="}`,
		"short hex":              `{"id":"0af","data":"AQI="}`,
		"no hex":                 `{"id":"0axx","data":"AQI="}`,
		"no padding":             `{"id":"0aff","data":"AQI"}`,
		"bits in the padding":    `{"id":"0aff","data":"AQJ="}`,
		"a line break":           "{\"id\":\"0aff\",\"data\":\"AQ\nI=\"}",
		"a line break at an end": "{\"id\":\"0aff\",\"data\":\"AQI=\r\n\"}",
		"an escape":              `{"id":"0aff","data":"\u0041QI="}`,
		"base64 for URLs":        `{"id":"0aff","data":"-_I="}`,
	} {
		if got, ok := read(data); ok {
			t.Errorf("%s: got %x", name, got)
		}
	}
}

func TestExactWords(t *testing.T) {
	read := func(data string) (string, uint64, bool) {
		e := ReadExact([]byte(data))
		e.Text(`{"name":"`)
		s := e.Plain()
		e.Text(`","n":`)
		n := e.Uint()
		e.Text(`}`)
		return s, n, e.End()
	}
	for _, c := range []struct {
		name string
		n    uint64
		data string
	}{{"a b/c~", 0, `{"name":"a b/c~","n":0}`}, {"", 1<<64 - 1, `{"name":"","n":18446744073709551615}`}} {
		if s, n, ok := read(c.data); !ok || s != c.name || n != c.n {
			t.Errorf("%s: got %q, %d, %t, want %q, %d", c.data, s, n, ok, c.name, c.n)
		}
	}
	for _, data := range []string{`{"name":"a","n":00}`, `{"name":"a","n":-1}`, `{"name":"a","n":+1}`, `{"name":"a","n":1.0}`, `{"name":"a","n":}`,
		`{"name":"a","n":18446744073709551616}`, `{"name":"\u0041","n":0}`, `{"name":"<","n":0}`, `{"name":"é","n":0}`, "{\"name\":\"\x7f\",\"n\":0}",
		"{\"name\":\"\n\",\"n\":0}", `{"name":"a`} {
		if s, n, ok := read(data); ok {
			t.Errorf("%s: got %q, %d", data, s, n)
		}
	}
	e := ReadExact(nil)
	if e.Fail(); e.End() {
		t.Error("a document that failed has the form")
	}
}
