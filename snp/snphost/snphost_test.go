package snphost

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/rootvouch/rootvouch/snp"
)

// The structure is packed as in the kernel: 16 bytes, with the address at offset 4.
func TestIssueIsPacked(t *testing.T) {
	if size := unsafe.Sizeof(issue{}); size != 16 || unsafe.Offsetof(issue{}.dataLow) != 4 || unsafe.Offsetof(issue{}.fwError) != 12 {
		t.Errorf("%d bytes, data at %d, error at %d, want 16, 4, 12", size, unsafe.Offsetof(issue{}.dataLow), unsafe.Offsetof(issue{}.fwError))
	}
	if want := uint(3<<30 | 16<<16 | 'S'<<8); issueCommand != want {
		t.Errorf("SEV_ISSUE_CMD is %#x, want %#x", issueCommand, want)
	}
}

func TestIdentify(t *testing.T) {
	m := genoa()
	id, err := m.device(t).Identify()
	if err != nil {
		t.Fatal(err)
	}
	tcb, err := id.Reported()
	if want := (snp.TCB{Bootloader: 10, SNP: 25, Microcode: 84}); err != nil || tcb != want {
		t.Errorf("reported TCB is %v, %v, want %v", tcb, err, want)
	}
	if id.Product != snp.Genoa || id.Firmware.String() != "1.55 build 22" || !id.Initialized || len(id.ChipIDs) != 1 || id.ChipIDs[0] != snp.ChipID(m.ids) {
		t.Errorf("got %+v", id)
	}
	if notes := id.Notes(); len(notes) != 1 || !strings.Contains(notes[0], "reports another TCB") {
		t.Errorf("notes are %q, want one: the reported TCB is not the current one", notes)
	}
	data, err := id.Encode()
	if err != nil {
		t.Fatal(err)
	}
	again, err := Decode(data)
	if err != nil {
		t.Fatal(err)
	}
	if once, _ := again.Encode(); !bytes.Equal(once, data) {
		t.Errorf("got %s, want %s", once, data)
	}
}

// Sockets have an ID each, and the firmware says how many there are.
func TestSockets(t *testing.T) {
	for sockets := 1; sockets <= maxSockets; sockets++ {
		m := genoa()
		m.ids = bytes.Repeat(m.ids, sockets)
		m.ids[len(m.ids)-1] = 0xee
		id, err := m.device(t).Identify()
		if err != nil || len(id.ChipIDs) != sockets || id.ChipIDs[sockets-1][63] != 0xee {
			t.Errorf("%d sockets: got %d IDs, %v", sockets, len(id.ChipIDs), err)
		}
		if calls := 2; sockets > 2 {
			calls++
			if len(m.asked) != calls {
				t.Errorf("%d sockets: asked %d times, want %d", sockets, len(m.asked), calls)
			}
		}
	}
	m := genoa()
	m.ids = append(m.ids, make([]byte, chipIDSize)...)
	if id, err := m.device(t).Identify(); err != nil || len(id.ChipIDs) != 1 {
		t.Errorf("an empty socket: got %d IDs, %v, want 1", len(id.ChipIDs), err)
	}
}

func TestNotes(t *testing.T) {
	for _, c := range []struct {
		edit func(*model)
		want string
	}{
		{func(m *model) { m.status[8] = 1 }, "MASK_CHIP_ID"},
		{func(m *model) { m.status[8] = 2 }, "MASK_CHIP_KEY"},
		{func(m *model) { m.status[8] = 4 }, "VLEK"},
		{func(m *model) { m.status[2] = 0 }, "not initialized"},
		{func(m *model) { m.status[3] = 0 }, "not initialized"},
		{func(m *model) { m.model = 1 }, "2605.12990"},
	} {
		m := genoa()
		copy(m.status[24:], m.status[16:24])
		c.edit(m)
		id, err := m.device(t).Identify()
		if err != nil || len(id.Notes()) != 1 || !strings.Contains(id.Notes()[0], c.want) {
			t.Errorf("got notes %q, %v, want one with %q", id.Notes(), err, c.want)
		}
	}
	plain := genoa()
	copy(plain.status[24:], plain.status[16:24])
	plain.status[8] = 0xf8 // features that newer firmware has
	if id, err := plain.device(t).Identify(); err != nil || len(id.Notes()) != 0 {
		t.Errorf("got notes %q, %v, want none", id.Notes(), err)
	}
}

func TestTurin(t *testing.T) {
	m := genoa()
	m.family, m.model = 0x1a, 0x02
	copy(m.ids[8:], make([]byte, 56))
	for _, at := range []int{16, 24} {
		copy(m.status[at:], []byte{1, 2, 3, 4, 0, 0, 0, 81})
	}
	id, err := m.device(t).Identify()
	tcb, decodeErr := id.Reported()
	if want := (snp.TCB{FMC: 1, Bootloader: 2, TEE: 3, SNP: 4, Microcode: 81}); err != nil || decodeErr != nil || tcb != want {
		t.Errorf("got %v, %v, %v, want %v", tcb, err, decodeErr, want)
	}
}

// Every malformed answer of a host is refused, with the fault.
func TestRefusals(t *testing.T) {
	for name, c := range map[string]struct {
		edit func(*model)
		want string
	}{
		"Intel":              {func(m *model) { m.vendor = "GenuineIntel" }, "vendor_id"},
		"an older EPYC":      {func(m *model) { m.family, m.model = 0x17, 0x31 }, "17/31"},
		"an old kernel":      {func(m *model) { m.noSNP = true }, "6.11"},
		"no permission":      {func(m *model) { m.errno = unix.EPERM }, "operation not permitted"},
		"a firmware error":   {func(m *model) { m.errno, m.fwError = unix.EIO, 0x1a }, "0x1a"},
		"no chip":            {func(m *model) { m.ids = make([]byte, chipIDSize) }, "0 chip IDs"},
		"half a chip ID":     {func(m *model) { m.ids = m.ids[:32] }, "32 bytes"},
		"no length":          {func(m *model) { m.ids = nil }, "0 bytes"},
		"too many sockets":   {func(m *model) { m.ids = make([]byte, (maxSockets+1)*chipIDSize) }, "0x4"},
		"another TCB layout": {func(m *model) { m.status[18] = 9 }, "current_tcb"},
		"a reserved byte":    {func(m *model) { m.status[27] = 9 }, "reported_tcb"},
	} {
		m := genoa()
		c.edit(m)
		if id, err := m.device(t).Identify(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %+v, %v, want an error with %q", name, id, err, c.want)
		}
	}
	d := genoa().device(t)
	if err := os.Remove(filepath.Join(d.root, "dev/sev")); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Identify(); err == nil || !strings.Contains(err.Error(), "dev/sev") {
		t.Errorf("no device: got error %v, want one that names it", err)
	}
}

func TestDecodeRefuses(t *testing.T) {
	id, err := genoa().device(t).Identify()
	if err != nil {
		t.Fatal(err)
	}
	good, err := id.Encode()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range [][2]string{
		{`"version": 1`, `"version": 2`}, {`"Genoa"`, `"Turin"`}, {`"family": 25`, `"family": 23`},
		{`"chip_ids": [`, `"chip_ids": [], "others": [`}, {`  "initialized": true,`, ``},
		{`"reported_tcb": "0a`, `"reported_tcb": "0A`}, {id.ChipIDs[0].String(), strings.Repeat("00", 64)},
	} {
		bad := strings.Replace(string(good), c[0], c[1], 1)
		if slices.Equal([]byte(bad), good) {
			t.Fatalf("%q is not in %s", c[0], good)
		}
		if got, err := Decode([]byte(bad)); err == nil {
			t.Errorf("%s: accepted as %+v", c[1], got)
		}
	}
}
