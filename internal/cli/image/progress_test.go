package image

import (
	"strings"
	"testing"
	"time"
)

// TestProgress: nothing is said at first, then a line with what is known.
func TestProgress(t *testing.T) {
	var out strings.Builder
	p := newProgress(&out, "unpacking")
	p.update(1<<20, 0)
	if out.Len() > 0 {
		t.Errorf("at once: got %q", &out)
	}
	for _, c := range []struct {
		done, total uint64
		want        string
	}{
		{3 << 20, 0, "unpacking: 3 MiB, "},
		{3 << 20, 4 << 20, "unpacking:  75 % of 4 MiB, "},
		{5 << 20, 4 << 20, ", 0s left\n"}, // what was to be done has grown
	} {
		out.Reset()
		p.start, p.last = time.Now().Add(-time.Minute), time.Time{}
		p.update(c.done, c.total)
		if !strings.Contains(out.String(), c.want) {
			t.Errorf("%d of %d: got %q, want %q in it", c.done, c.total, out.String(), c.want)
		}
	}
	p.done()
}
