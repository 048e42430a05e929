package attest

import (
	"bufio"
	"crypto/tls"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"unicode"

	"github.com/rootvouch/rootvouch/evidence"
)

func TestPrintable(t *testing.T) {
	for text, want := range map[string]string{
		"plain ü": "plain ü", "a\x1b[2K\rb": `a\x1b[2K\x0db`, "a\nb": "a; b", "\u009b1A\u202e": `\u009b1A\u202e`, "\xff": `\xff`,
	} {
		if got := printable(text); got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
}

// A server in the VM's place cannot write a verdict onto the owner's terminal.
func TestPeerCannotDriveTerminal(t *testing.T) {
	const evil = "\r\x1b[2K\x1b[1A\x1b[2Kverdict: trusted\x1b[8m"
	for _, answer := range []string{
		"HTTP/1.1 500 " + evil + "\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 200 OK\r\n" + evil + "\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: " + evil + "\r\n\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: " + evil + "\r\n\r\n",
		evil + "\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 31\r\n\r\n" + evil,
		"HTTP/1.1 400 Bad Request\r\nContent-Length: 31\r\n\r\n" + evil,
	} {
		err := askRaw(t, answer)
		if err == nil {
			t.Errorf("%q: got no error", answer)
			continue
		}
		if strings.ContainsFunc(err.Error(), func(r rune) bool { return !unicode.IsPrint(r) }) {
			t.Errorf("%q: error is %q, want one that can be printed", answer, err)
		}
	}
	var b strings.Builder
	if err := (Result{Err: errors.New("got " + evil + "\nverdict: trusted")}).Print(&b, true); err != nil {
		t.Fatal(err)
	}
	if out := b.String(); strings.ContainsAny(out, "\x1b\r") || strings.Count(out, "\n") != 2 || !strings.HasSuffix(out, "\nverdict: refused\n") {
		t.Errorf("printed %q", out)
	}
}

// askRaw asks a TLS server that answers with those bytes.
func askRaw(t *testing.T, answer string) error {
	t.Helper()
	donor := httptest.NewTLSServer(nil)
	cert := donor.TLS.Certificates[0]
	donor.Close()
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{cert}})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		if r, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
			r.Body.Close()
			c.Write([]byte(answer))
		}
	}()
	_, err = Ask(t.Context(), l.Addr().String(), evidence.Nonce{})
	return err
}
