package refval_test

import (
	"strings"
	"testing"

	"github.com/rootvouch/rootvouch/refval"
	"github.com/rootvouch/rootvouch/snp"
)

func TestParseProduct(t *testing.T) {
	for s, want := range map[string]refval.Product{
		"Genoa=any": {Name: snp.Genoa, MinimumTCB: refval.Any[snp.TCB]()},
		"Genoa=bootloader:10,tee:0,snp:26,microcode:84": {Name: snp.Genoa,
			MinimumTCB: refval.Exactly(snp.TCB{Bootloader: 10, SNP: 26, Microcode: 84})},
		"Turin=snp:4,microcode:81,fmc:1,bootloader:2,tee:255": {Name: snp.Turin,
			MinimumTCB: refval.Exactly(snp.TCB{FMC: 1, Bootloader: 2, TEE: 255, SNP: 4, Microcode: 81})},
	} {
		if got, err := refval.ParseProduct(s); err != nil || got != want {
			t.Errorf("%s: got %v, %v, want %v", s, got, err, want)
		}
	}
	for s, want := range map[string]string{
		"Genoa":                            "minimum TCB is missing, want Genoa=any or Genoa=bootloader:N,tee:N,snp:N,microcode:N",
		"genoa=any":                        "want one of",
		"Genoa=":                           "want NAME:N",
		"Genoa=Any":                        "want NAME:N",
		"Genoa=bootloader:10,tee:0,snp:26": "microcode is missing",
		"Genoa=bootloader:10,tee:0,snp:26,microcode:84,":       "want NAME:N",
		"Genoa=bootloader:10,tee:0,snp:26,microcode:256":       "0 to 255",
		"Genoa=bootloader:10,tee:0,snp:26,microcode:084":       "0 to 255",
		"Genoa=bootloader:10,tee:0,snp:26,microcode:+84":       "0 to 255",
		"Genoa=bootloader:10,tee:0,snp:26,microcode":           "0 to 255",
		"Genoa=bootloader:10,tee:0,snp:26,snp:1,microcode:84":  "snp occurs twice",
		"Genoa=fmc:0,bootloader:10,tee:0,snp:26,microcode:84":  "no more than",
		"Genoa=bootloader:10,tee:0,snp:26,microcode:84,ucod:1": "no more than",
		"Turin=bootloader:10,tee:0,snp:26,microcode:84":        "fmc is missing",
	} {
		if got, err := refval.ParseProduct(s); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, %v, want an error with %q", s, got, err, want)
		}
	}
}
