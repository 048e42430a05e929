package dm

import (
	"bytes"
	"encoding/binary"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestCryptTarget(t *testing.T) {
	got := Crypt{
		Device: "254:0", Cipher: "aes-xts-plain64", Key: "rootvouch:x", KeySize: 64,
		Offset: 1 << 20, Size: 8192, SectorSize: 4096,
	}.Target()
	want := Target{Length: 16, Type: "crypt", Params: "aes-xts-plain64 :64:logon:rootvouch:x 0 254:0 2048 1 sector_size:4096"}
	if got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestVolumeTargets(t *testing.T) {
	got := Crypt{
		Device: "253:2", Cipher: "capi:authenc(hmac(sha256),xts(aes))-plain64", Key: "rootvouch:x", KeySize: 96,
		Size: 8192, SectorSize: 4096, TagSize: 32,
	}.Target()
	want := Target{Length: 16, Type: "crypt", Writable: true,
		Params: "capi:authenc(hmac(sha256),xts(aes))-plain64 :96:logon:rootvouch:x 0 253:2 0 2 integrity:32:aead sector_size:4096"}
	if got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	got = Integrity{Device: "254:16", Offset: 1 << 20, Size: 8192, SectorSize: 4096, TagSize: 32}.Target()
	want = Target{Length: 16, Type: "integrity", Writable: true, Params: "254:16 2048 32 J 1 block_size:4096"}
	if got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestVerityTarget(t *testing.T) {
	v := Verity{
		Device: "253:0", BlockSize: 4096, DataBlocks: 3, TreeBlock: 4,
		RootHash: []byte{0xab, 0xcd}, Salt: []byte{1, 2}, OnCorruption: Panic,
	}
	want := Target{Length: 24, Type: "verity", Params: "1 253:0 253:0 4096 4096 3 4 sha256 abcd 0102 2 panic_on_corruption panic_on_error"}
	if got := v.Target(); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	v.Salt, v.OnCorruption = nil, ReadError
	want.Params = "1 253:0 253:0 4096 4096 3 4 sha256 abcd -"
	if got := v.Target(); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestVerityTargetNeedsChoice(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("got a table for the zero OnCorruption")
		}
	}()
	Verity{BlockSize: 4096}.Target()
}

func TestVerityCorrupted(t *testing.T) {
	for status, want := range map[string]bool{"V": false, "V -": false, "C": true, "C 1 -": true, "": true} {
		if got := VerityCorrupted(status); got != want {
			t.Errorf("status %q: got %v, want %v", status, got, want)
		}
	}
}

// TestRequest holds the layout against the offsets of struct dm_ioctl and
// struct dm_target_spec in include/uapi/linux/dm-ioctl.h on a 64-bit machine.
func TestRequest(t *testing.T) {
	b, err := request("root", unix.DM_READONLY_FLAG, &Target{Length: 24, Type: "verity", Params: "1 a b"})
	if err != nil {
		t.Fatal(err)
	}
	u32 := func(offset int) uint32 { return binary.NativeEndian.Uint32(b[offset:]) }
	for _, f := range []struct {
		name   string
		offset int
		want   uint32
	}{
		{"version", 0, 4},
		{"data_size", 12, uint32(len(b))},
		{"data_start", 16, 312},
		{"target_count", 20, 1},
		{"flags", 28, 1},
		{"length", 312 + 8, 24},
	} {
		if got := u32(f.offset); got != f.want {
			t.Errorf("%s is %d, want %d", f.name, got, f.want)
		}
	}
	for _, f := range []struct {
		name   string
		offset int
		want   string
	}{
		{"name", 48, "root\x00"},
		{"target_type", 312 + 24, "verity\x00"},
		{"params", 312 + 40, "1 a b\x00"},
	} {
		if !bytes.HasPrefix(b[f.offset:], []byte(f.want)) {
			t.Errorf("%s is %q, want %q", f.name, b[f.offset:f.offset+len(f.want)], f.want)
		}
	}
}

func TestRequestRefuses(t *testing.T) {
	for _, c := range []struct {
		name   string
		device string
		target *Target
	}{
		{"long name", strings.Repeat("x", 128), nil},
		{"zero byte in name", "a\x00b", nil},
		{"long type", "a", &Target{Type: strings.Repeat("x", 16)}},
		{"long table", "a", &Target{Type: "crypt", Params: strings.Repeat("x", maxTable)}},
	} {
		if _, err := request(c.device, 0, c.target); err == nil {
			t.Errorf("%s: got no error", c.name)
		}
	}
}

func TestParams(t *testing.T) {
	line := append(make([]byte, specSize), "V\x00rest"...)
	got, err := reply{header: unix.DmIoctl{Target_count: 1}, data: line}.params()
	if err != nil || got != "V" {
		t.Errorf("got %q, %v, want %q", got, err, "V")
	}
	for _, r := range []reply{
		{data: line},
		{header: unix.DmIoctl{Target_count: 1}, data: line[:specSize-1]},
		{header: unix.DmIoctl{Target_count: 1}, data: line[:specSize+1]},
	} {
		if got, err := r.params(); err == nil {
			t.Errorf("got %q, want an error", got)
		}
	}
}
