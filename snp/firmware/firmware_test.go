package firmware

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	xz "github.com/ulikunitz/xz/lzma"

	"github.com/rootvouch/rootvouch/internal/needs"
)

// answers returns a judgement in short form.
func answers(j Judgement) string {
	var words []string
	for _, f := range j.Findings {
		words = append(words, fmt.Sprintf("%v", f.Answer))
	}
	return strings.Join(words, " ")
}

// change returns the stock modules with one changed; a nil body removes it.
func change(name string, edit func([]byte) []byte) []module {
	var all []module
	for _, m := range stock() {
		if m.name == name {
			if m.body = edit(m.body); m.body == nil {
				continue
			}
		}
		all = append(all, m)
	}
	return all
}

func replace(old, new []byte) func([]byte) []byte {
	return func(b []byte) []byte { return bytes.ReplaceAll(b, old, new) }
}

func remove([]byte) []byte { return nil }

func TestInspect(t *testing.T) {
	noShim := change("BdsDxe", replace(join(vendorPath(), filePath("shim")), nil))
	plus := func(modules []module, m module) []module { return append(append([]module{}, modules...), m) }
	for _, row := range []struct {
		name, want string
		modules    []module
	}{
		{"stock", "closed open closed closed closed", stock()},
		{"no program", "closed closed closed closed closed", noShim},
		{"another spelling", "closed open closed closed closed", change("BdsDxe", replace(filePath("shim"), filePath("SHIMX64.EFI")))},
		{"in another file", "closed open closed closed closed", plus(noShim, module{guidLZMA, "Other", join(vendorPath(), filePath("other"))})},
		{"path made while it runs", "closed unknown closed closed closed", plus(noShim, module{guidLZMA, "Other", join([]byte{1}, utf16Bytes("Shim\x00"))})},
		{"path that is cut", "closed open closed closed closed", plus(noShim, module{guidLZMA, "Other", join(vendorPath(), []byte{4, 4, 0xff, 0xff})})},
		{"kernel started otherwise", "closed unknown closed closed closed", change("BdsDxe", func([]byte) []byte { return []byte("no path") })},
		{"nothing compared", "open open closed unknown closed", change("QemuKernelLoaderFsDxe", replace(guidBytes(guidInitrdHash), nil))},
		{"no loader", "open open closed unknown closed", change("QemuKernelLoaderFsDxe", remove)},
		{"no guest type", "closed open open open closed", change("IncompatiblePciDeviceSupportDxe", func([]byte) []byte { return []byte("CcProbeLibNull") })},
		{"no ROM policy", "closed open open open closed", change("IncompatiblePciDeviceSupportDxe", remove)},
		{"another page", "closed open open open closed", change("IncompatiblePciDeviceSupportDxe", replace([]byte{0x80, 0}, []byte{0x90, 0}))},
		{"no PCI", "closed open unknown open closed", change("PciBusDxe", remove)},
		{"no flash", "closed open closed closed closed", change("FvbServicesRuntimeDxe", remove)},
		{"NvVars", "closed closed closed closed open", plus(noShim, module{guidLZMA, "Other", utf16Bytes("NvVars\x00")})},
	} {
		if got := answers(Inspect(build(t, row.modules, shape{free: 4096}))); got != row.want {
			t.Errorf("%s: got %q, want %q", row.name, got, row.want)
		}
	}
}

// TestInspectUnknown checks that an unreadable image does not pass.
func TestInspectUnknown(t *testing.T) {
	good := build(t, stock(), shape{free: 4096})
	start := bytes.Index(good, guidBytes(guidFFS2)) - 16
	damaged := func(at int, b byte) []byte {
		data := bytes.Clone(good)
		data[start+at] = b
		return data
	}
	for _, row := range []struct {
		name, want string
		data       []byte
	}{
		{"empty", "it is no build of edk2", nil},
		{"SVSM", "it is no build of edk2", bytes.Repeat([]byte("svsm"), 5000)},
		{"damaged volume", "it is no build of edk2", damaged(33, 0xff)},
		{"damaged file", "file header's sum", damaged(72, 1)},
		{"file behind its volume", "file has", damaged(72+22, 0xff)},
		{"damaged section", "section of", damaged(72+24+2, 0xff)},
		{"damaged stream", "decoding LZMA", damaged(72+24+24, 0xff)},
		{"other compression", "section of kind a31280ad-481e-41b6-95e8-127f4c984779", build(t, stock(), shape{pack: func(dxe []byte) []byte {
			return guidedSection("a31280ad-481e-41b6-95e8-127f4c984779", dxe)
		}})},
		{"old compression", "old compression", build(t, stock(), shape{pack: func(dxe []byte) []byte {
			return section(sectionCompression, dxe)
		}})},
	} {
		j := Inspect(row.data)
		if err := j.Check(); err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: got %v, want an error with %q", row.name, err, row.want)
		}
		for _, f := range j.Findings {
			if f.Answer == Closed && f.Way != WayNvVars && f.Way != WayFlash {
				t.Errorf("%s: %v", row.name, f)
			}
		}
	}
	if (Judgement{}).Closed() {
		t.Error("the zero judgement is closed")
	}
}

func TestHarden(t *testing.T) {
	two := change("BdsDxe", func(b []byte) []byte {
		return join(b, vendorPath(), filePath("SHIM"), end(), []byte("more"), vendorPath(), filePath("x.efi"), end())
	})
	for _, row := range []struct {
		name    string
		modules []module
		shape   shape
	}{
		{"one path", stock(), shape{free: 4096}},
		{"three paths", two, shape{free: 4096}},
		{"checksums", two, shape{free: 4096, attributes: fileChecksum}},
	} {
		data := build(t, row.modules, row.shape)
		before := bytes.Clone(data)
		hard, err := Harden(data)
		if err != nil {
			t.Errorf("%s: %v", row.name, err)
			continue
		}
		if !bytes.Equal(data, before) {
			t.Errorf("%s: Harden changed its argument", row.name)
		}
		if len(hard) != len(data) || Inspect(hard).Check() != nil {
			t.Errorf("%s: %d bytes of %d; %v", row.name, len(hard), len(data), Inspect(hard).Check())
		}
		if again, err := Harden(hard); err != nil || !bytes.Equal(again, hard) {
			t.Errorf("%s: hardening twice gives other bytes, or %v", row.name, err)
		}
		checkHardened(t, row.name, data, hard)
	}
}

// checkHardened compares two images with another decoder. Only the GUIDs of the
// paths and the checksums may differ.
func checkHardened(t *testing.T, name string, stock, hard []byte) {
	t.Helper()
	want, got := unpacked(t, stock), unpacked(t, hard)
	node := append([]byte{4, 3, 20, 0}, guidBytes(guidLoaderFS)...)
	for _, at := range allIndexes(want, node) {
		if next := want[at+20:]; next[1] == nodeFilePath && !bytes.HasPrefix(next, filePath("kernel")) {
			copy(want[at+4:], nowhere[:])
		}
	}
	i, err := parse(hard)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range i.spaces {
		for _, f := range s.files {
			body, kept := s.data[f.start+f.header:f.end], s.data[f.start+17]
			if s.data[f.start+19]&fileChecksum != 0 && sum(body)+kept != 0 {
				t.Errorf("%s: %v: checksum %#x of data that sums to %#x", name, f, kept, sum(body))
			}
			if s != i.spaces[0] {
				want[f.start+17] = kept
			}
		}
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s: more than the paths' GUIDs differs", name)
	}
}

// unpacked returns the content of an image's LZMA section by another decoder.
func unpacked(t *testing.T, data []byte) []byte {
	t.Helper()
	at := bytes.Index(data, guidBytes(guidLZMA))
	r, err := xz.NewReader(bytes.NewReader(data[at+20 : at-4+size24(data[at-4:])]))
	if err != nil {
		t.Fatal(err)
	}
	content, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

func TestHardenRefuses(t *testing.T) {
	var open *OpenError
	if _, err := Harden(build(t, change("IncompatiblePciDeviceSupportDxe", remove), shape{free: 4096})); !errors.As(err, &open) {
		t.Errorf("option ROMs: got %v, want what stays open", err)
	}
	if _, err := Harden([]byte("no firmware")); !errors.As(err, &open) {
		t.Errorf("no firmware: got %v", err)
	}
	// The GUID of the path is in the image twice. Its copy becomes literals, for
	// which there is no room.
	if _, err := Harden(build(t, stock(), shape{})); err == nil || !strings.Contains(err.Error(), "more bytes") {
		t.Errorf("no room: got %v", err)
	}
	after := ffsFile(guidLZMA, 7, 0, section(0x10, []byte("next")))
	if _, err := Harden(build(t, stock(), shape{free: 4096, after: after})); err == nil || !strings.Contains(err.Error(), "something follows it") {
		t.Errorf("a file after it: got %v", err)
	}
}

// TestImages compares the list with the results of Inspect and Harden for the stock
// firmware.
func TestImages(t *testing.T) {
	stock, err := os.ReadFile(needs.Part(t, "firmware/usr/share/ovmf/OVMF.amdsev.fd"))
	if err != nil {
		t.Fatal(err)
	}
	hard, err := Harden(stock)
	if err != nil {
		t.Fatal(err)
	}
	if got := answers(Inspect(stock)); got != "closed open closed closed closed" {
		t.Errorf("stock: got %q", got)
	}
	i, err := parse(stock)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range i.spaces[1:] {
		p := s.packed
		if !bytes.Equal(p.lzma.Encode(), p.in.data[p.stream.start:p.stream.end]) {
			t.Errorf("%v: the same operations give another stream", p.file)
		}
	}
	if sum := sha256.Sum256(stock); hex.EncodeToString(sum[:]) != Images()[0].SHA256 {
		t.Logf("the stock firmware is a newer one, %x, which nobody has judged: docs/firmware.md says how", sum)
		return
	}
	if sum := sha256.Sum256(hard); hex.EncodeToString(sum[:]) != Images()[1].SHA256 {
		t.Errorf("the hardened copy is %x, want %s", sum, Images()[1].SHA256)
	}
	if err := Check(stock); err == nil || Check(hard) != nil {
		t.Errorf("Check says %v of the stock firmware, %v of the hardened one", err, Check(hard))
	}
}

// TestImagesDocument compares docs/firmware.md with the list.
func TestImagesDocument(t *testing.T) {
	text, err := os.ReadFile("../../docs/firmware.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, known := range Images() {
		row := fmt.Sprintf("| `%s` | %s | %v | %s |", known.SHA256, known.Name, known.Answer, known.Why)
		if !bytes.Contains(text, []byte(row)) {
			t.Errorf("docs/firmware.md has no row\n%s", row)
		}
	}
}

func FuzzInspect(f *testing.F) {
	f.Add(build(f, stock(), shape{free: 64}))
	f.Add(build(f, stock(), shape{free: 64, pack: func(dxe []byte) []byte { return dxe }}))
	f.Fuzz(func(t *testing.T, data []byte) {
		Inspect(data)
		if hard, err := Harden(data); err == nil && Inspect(hard).Check() != nil {
			t.Error("what was hardened is open")
		}
	})
}
