package kek

import (
	"crypto/rand"
	"testing"
)

// BenchmarkOpen is what a release pays for opening a disk's key: with a key that is here, with a
// provider program, with a stand-in for transit on this machine.
func BenchmarkOpen(b *testing.B) {
	local := Loaded{mustKEK(b, 1), nothing{}}
	program := programSource(b, "well")
	program.PerRelease = true
	for _, c := range []struct {
		name string
		load func() (Loaded, error)
	}{
		{"here", func() (Loaded, error) { return local, nil }},
		{"program", func() (Loaded, error) { return program.Load(b.Context(), "") }},
		{"transit", func() (Loaded, error) { return withPerRelease(transitSource(b)).Load(b.Context(), "") }},
	} {
		b.Run(c.name, func(b *testing.B) {
			k, err := c.load()
			if err != nil {
				b.Fatal(err)
			}
			defer k.Close()
			about := About("label")
			sealed, err := k.Seal(rand.Reader, make([]byte, 32), about)
			if err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				if _, err := k.Open(sealed, about); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
