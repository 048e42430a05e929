package boot

import (
	"strings"
	"testing"
)

func TestCheckProcessors(t *testing.T) {
	show := func(features ...string) string {
		var b strings.Builder
		for _, f := range features {
			b.WriteString("processor\t: 0\nmodel name\t: AMD EPYC aes rdrand\nflags\t\t: fpu vme " + f + " sha_ni\nbugs\t\t: aes rdrand\n\n")
		}
		return b.String()
	}
	const all = "aes xsave rdrand"
	if err := checkProcessors(show(all, all)); err != nil {
		t.Error(err)
	}
	for want, cpuinfo := range map[string]string{
		`processor 0: the host shows it without the feature "aes"`:    show("rdrand vaes", all),
		`processor 1: the host shows it without the feature "aes"`:    show(all, "rdrand"),
		`processor 0: the host shows it without the feature "rdrand"`: show("aes rdseed"),
		"shows no features": "",
	} {
		if err := checkProcessors(cpuinfo); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got error %v, want one with %q", err, want)
		}
	}
}
