package timeline

import (
	"bytes"
	"encoding/xml"
	"fmt"
)

// Sizes of the picture in its own units.
const (
	labels    = 190 // left of the bars
	barsWidth = 600
	rowHeight = 24
	top       = 48
)

// colours :: Span.Kind -> fill; they differ in greyscale too.
func colours() map[string]string {
	return map[string]string{"host": "#9aa5b1", "kernel": "#5b8db8", "pid1": "#d9822b", "system": "#6a9f58"}
}

// SVG draws the boot: a bar for each part, and a scale in seconds. The picture has
// no script, no link and no embedded font.
func (b Boot) SVG() []byte {
	var out bytes.Buffer
	end := b.end()
	x := func(ms uint64) float64 { return labels + barsWidth*float64(ms)/float64(end) }
	height := top + rowHeight*len(b.Spans) + 16
	width := labels + barsWidth + 90
	fmt.Fprintf(&out, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" font-family="sans-serif" font-size="13">`+"\n", width, height, width, height)
	fmt.Fprintf(&out, `<rect width="%d" height="%d" fill="#ffffff"/>`+"\n", width, height)
	fmt.Fprintf(&out, `<text x="8" y="20" fill="#222222">%.1f s from the launch: grey the host's firmware and gate, blue the kernel, orange PID 1, green the booted system</text>`+"\n", float64(end)/1000)
	for at := uint64(0); at <= end; at += tick(end) {
		fmt.Fprintf(&out, `<line x1="%.1f" y1="%d" x2="%.1f" y2="%d" stroke="#dddddd"/><text x="%.1f" y="%d" fill="#666666" text-anchor="middle" font-size="11">%g s</text>`+"\n",
			x(at), top-4, x(at), height-12, x(at), top-8, float64(at)/1000)
	}
	for i, s := range b.Spans {
		y := top + rowHeight*i
		fmt.Fprintf(&out, `<text x="%d" y="%d" fill="#222222" text-anchor="end">%s</text>`, labels-8, y+16, escape(s.Name))
		fmt.Fprintf(&out, `<rect x="%.1f" y="%d" width="%.1f" height="%d" fill="%s"/>`, x(s.Start), y+3, max(1, x(s.End)-x(s.Start)), rowHeight-6, colours()[s.Kind])
		fmt.Fprintf(&out, `<text x="%.1f" y="%d" fill="#222222" font-size="11">%.2f s</text>`+"\n", x(s.End)+5, y+16, float64(s.End-s.Start)/1000)
	}
	out.WriteString("</svg>\n")
	return out.Bytes()
}

// tick returns the step of the scale in milliseconds. The scale has at most about
// twelve steps.
func tick(end uint64) uint64 {
	for step := uint64(100); ; step *= 10 {
		for _, times := range []uint64{1, 2, 5} {
			if end/(step*times) <= 12 {
				return step * times
			}
		}
	}
}

func escape(text string) string {
	var out bytes.Buffer
	if err := xml.EscapeText(&out, []byte(text)); err != nil {
		panic("timeline: internal error: " + err.Error())
	}
	return out.String()
}
