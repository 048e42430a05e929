package launch_test

import (
	"bytes"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/rootvouch/rootvouch/internal/needs"
	"github.com/rootvouch/rootvouch/snp/launch"
	"github.com/rootvouch/rootvouch/test/firmwaretest"
)

// TestHashesPage compares the page with the published tables and page digests.
func TestHashesPage(t *testing.T) {
	v, firmware := readFigures(t), mustFirmware(t, firmwaretest.AmdSev())
	if len(v.Tables) == 0 {
		t.Error("got no tables")
	}
	for _, c := range v.Tables {
		var commandLine string
		if c.Append != nil {
			commandLine = *c.Append
		}
		h, err := launch.HashKernel(bytes.NewReader(mustHex(t, c.Kernel)), nil, commandLine)
		if c.Initrd != nil {
			h, err = launch.HashKernel(bytes.NewReader(mustHex(t, c.Kernel)), bytes.NewReader(mustHex(t, *c.Initrd)), commandLine)
		}
		if err != nil {
			t.Fatal(err)
		}
		page, gpa, err := launch.HashesPage(firmware, h)
		if err != nil || gpa != 0x810000 || len(page) != launch.PageSize {
			t.Fatalf("got %d bytes at %#x, %v", len(page), gpa, err)
		}
		if got := hex.EncodeToString(page[0xc00 : 0xc00+len(c.Table)/2]); got != c.Table {
			t.Errorf("table is %s\nwant %s", got, c.Table)
		}
		if got := sha512.Sum384(page); hex.EncodeToString(got[:]) != c.Page {
			t.Errorf("page has SHA-384 %x, want %s", got, c.Page)
		}
	}
}

func TestHashesPageRefusals(t *testing.T) {
	firmware := mustFirmware(t, firmwaretest.OVMF())
	_, _, err := launch.HashesPage(firmware, *mustHashes(t, nil, nil, ""))
	if format := (*launch.FormatError)(nil); !errors.As(err, &format) {
		t.Errorf("firmware without kernel hashes: got %v", err)
	}
	amdsev := mustFirmware(t, firmwaretest.AmdSev())
	h := *mustHashes(t, nil, nil, "")
	h.Initrd = [32]byte{}
	if _, _, err := launch.HashesPage(amdsev, h); err == nil || !strings.Contains(err.Error(), "initramfs") {
		t.Errorf("initramfs not set: got %v", err)
	}
	if _, err := launch.HashCommandLine("a\x00b"); err == nil {
		t.Error("NUL inside the command line: got no error")
	}
}

// TestDebianFirmware reads the firmware that the emulated platform boots.
func TestDebianFirmware(t *testing.T) {
	image, err := os.ReadFile(needs.Part(t, "firmware/usr/share/ovmf/OVMF.amdsev.fd"))
	if err != nil {
		t.Fatal(err)
	}
	f, err := launch.ParseFirmware(image)
	if err != nil {
		t.Fatal(err)
	}
	_, gpa, err := launch.HashesPage(f, *mustHashes(t, []byte("kernel"), nil, ""))
	if err != nil || gpa != 0x810000 {
		t.Errorf("kernel-hashes page: got %#x, %v, want 0x810000", gpa, err)
	}
	if eip, err := f.ResetEIP(); err != nil || eip != 0x80b004 {
		t.Errorf("reset address: got %#x, %v, want 0x80b004", eip, err)
	}
	// Unlike edk2-stable202405, this build describes the hashes page last.
	s := f.Sections()
	if len(s) == 0 || s[len(s)-1].Type != launch.SectionKernelHashes {
		t.Errorf("got sections %v, want the kernel-hashes page last", s)
	}
}
