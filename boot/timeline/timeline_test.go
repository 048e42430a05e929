package timeline

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/rootvouch/rootvouch/boot/bootlog"
)

// events returns the events of a boot, as a launcher writes them.
func events(t *testing.T) []Event {
	t.Helper()
	var file []byte
	for _, e := range []Event{
		{MS: 4000, Line: "BdsDxe: loading Boot0001"}, {MS: 5000, Mark: Kernel}, {MS: 5001, Line: "EFI stub: Loaded initrd"},
		{MS: 9050, Line: "rootvouch: start: kernel 6.12, PID 1 (50 ms)"},
		{MS: 12050, Line: "rootvouch: agent: attested <&> (3000 ms)"},
		{MS: 13000, Line: "rootvouch: hand-over: tables (10 ms)"},
		{MS: 13020, Line: "rootvouch: switch: root filesystem"},
		{MS: 20000, Line: "[  OK  ] Reached target [0;1;39mmulti-user.target[0m - Multi-User System."},
		{MS: 60000, Line: "later"},
	} {
		file = append(file, e.Encode()...)
	}
	all, err := Decode(file)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestNew(t *testing.T) {
	console := []Span{
		{"firmware and gate", "host", 0, 5000}, {"kernel, initramfs", "kernel", 5000, 9000}, {"start", "pid1", 9000, 9050},
		{"agent", "pid1", 9050, 12050}, {"hand-over", "pid1", 12990, 13000}, {"systemd to multi-user", "system", 13000, 20000},
	}
	// The guest's clock began 200 ms after the kernel was seen; "key" is in its log alone.
	log := &bootlog.Log{Steps: []bootlog.Step{{Name: "start", StartMS: 3800, DurationMS: 50}, {Name: "agent", StartMS: 3900, DurationMS: 2950}, {Name: "key", StartMS: 6850, DurationMS: 400}}}
	logged := []Span{
		console[0], console[1], console[2], {"agent", "pid1", 9100, 12050}, {"key", "pid1", 12050, 12450}, console[4], console[5],
	}
	for name, c := range map[string]struct {
		log  *bootlog.Log
		want []Span
	}{"console alone": {nil, console}, "boot log": {log, logged}, "another boot's log": {&bootlog.Log{Steps: []bootlog.Step{{Name: "other"}}}, console}} {
		b, err := New(events(t), c.log)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(Boot{Spans: c.want, Complete: true}, b); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
	if _, err := New(events(t)[:1], nil); err == nil || !strings.Contains(err.Error(), "no kernel started") {
		t.Errorf("no kernel: got error %v", err)
	}
	b, err := New(events(t)[:4], nil)
	if err != nil || b.Complete {
		t.Errorf("a boot that ends early: got %+v, error %v", b, err)
	}
}

// The text fits a terminal, and the picture is XML without active content.
func TestPictures(t *testing.T) {
	b, err := New(events(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	b.Spans[3].Name = `agent <script> & "x"`
	text := string(b.Text())
	if !strings.Contains(text, "3.000 s") || !strings.HasSuffix(text, "20.000 s from the launch to multi-user\n") {
		t.Errorf("text is\n%s", text)
	}
	for line := range strings.Lines(text) {
		if n := utf8.RuneCountInString(line); n > 80 {
			t.Errorf("a line has %d columns: %q", n, line)
		}
	}
	rects := 0
	for d := xml.NewDecoder(bytes.NewReader(b.SVG())); ; {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if e, ok := token.(xml.StartElement); ok {
			switch e.Name.Local {
			case "rect":
				rects++
			case "svg", "text", "line":
			default:
				t.Errorf("the picture has an element %q", e.Name.Local)
			}
		}
	}
	if rects != len(b.Spans)+1 {
		t.Errorf("the picture has %d bars, want %d and its ground", rects-1, len(b.Spans))
	}
}

func TestDecodeRefuses(t *testing.T) {
	for _, text := range []string{"{}\n", "x\n", `{"ms":-1}` + "\n", `{"ms":1,"extra":2}` + "\n"} {
		if got, err := Decode([]byte(text)); err == nil {
			t.Errorf("%q: got %v, want an error", text, got)
		}
	}
}

// FuzzNew: for all times, spans stay in order and inside the picture.
func FuzzNew(f *testing.F) {
	f.Add(uint64(5), uint64(3), "rootvouch: start: x (99999 ms)", uint64(2))
	f.Fuzz(func(t *testing.T, kernel, at uint64, line string, up uint64) {
		kernel, at, up = kernel%1e6, at%1e6, up%1e6
		b, err := New([]Event{{MS: kernel, Mark: Kernel}, {MS: at, Line: line}, {MS: up, Line: reached + multiUser}}, nil)
		if err != nil {
			return
		}
		last := uint64(0)
		for _, s := range b.Spans {
			if s.Start < last || s.End < s.Start {
				t.Errorf("spans are %+v", b.Spans)
			}
			last = s.Start
		}
		b.Text()
		b.SVG()
	})
}
