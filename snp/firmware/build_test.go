package firmware

import (
	"bytes"
	"encoding/binary"
	"testing"

	xz "github.com/ulikunitz/xz/lzma"
)

// A module is a file of the DXE volume in tests.
type module struct {
	guid, name string
	body       []byte
}

// stock returns the modules of a small firmware like the AmdSev build's.
func stock() []module {
	readGuestType := []byte{0x90, 0x8a, 0x04, 0x25, 0x00, 0xb0, 0x80, 0x00, 0xc3}
	return []module{
		{guidLoader, "QemuKernelLoaderFsDxe", join([]byte("code"), vendorPath(), end(), utf16Bytes("shim\x00"),
			guidBytes(guidKernelHash), guidBytes(guidInitrdHash), guidBytes(guidCmdlineHash))},
		{"6d33944a-ec75-4855-a54d-809c75241f6c", "BdsDxe", join(bytes.Repeat([]byte("boot device selection "), 50),
			vendorPath(), filePath("kernel"), end(), []byte("between"), vendorPath(), filePath("shim"), end())},
		{guidPCIBus, "PciBusDxe", []byte("bus")},
		{guidPCIPolicy, "IncompatiblePciDeviceSupportDxe", readGuestType},
		{guidFlash, "FvbServicesRuntimeDxe", []byte("flash")},
	}
}

func join(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

func vendorPath() []byte { return append([]byte{4, 3, 20, 0}, guidBytes(guidLoaderFS)...) }

func filePath(name string) []byte {
	text := utf16Bytes(name + "\x00")
	return append(binary.LittleEndian.AppendUint16([]byte{4, 4}, uint16(4+len(text))), text...)
}

func end() []byte { return []byte{0x7f, 0xff, 4, 0} }

func section(kind byte, body []byte) []byte {
	s := append([]byte{0, 0, 0, kind}, body...)
	putSize24(s, len(s))
	return s
}

func sections(all ...[]byte) (out []byte) {
	for _, s := range all {
		out = append(out, make([]byte, align(len(out), 4)-len(out))...)
		out = append(out, s...)
	}
	return out
}

func guidedSection(guid string, data []byte) []byte {
	body := append(guidBytes(guid), 24, 0, 1, 0)
	return section(sectionGUIDed, append(body, data...))
}

// ffsFile makes a file of a volume.
func ffsFile(guid string, kind, attributes byte, body []byte) []byte {
	f := append(append(guidBytes(guid), 0, fileNoChecksum, kind, attributes, 0, 0, 0, 0), body...)
	putSize24(f[20:], len(f))
	f[23] = 0xf8
	f[16] = -headerSum(f[:fileHeader])
	if attributes&fileChecksum != 0 {
		f[17] = -sum(body)
	}
	return f
}

func sum(b []byte) (s byte) {
	for _, x := range b {
		s += x
	}
	return s
}

// ffsVolume makes a volume with free bytes after its files.
func ffsVolume(free int, files ...[]byte) []byte {
	v := make([]byte, 72)
	copy(v[16:], guidBytes(guidFFS2))
	copy(v[40:], "_FVH")
	binary.LittleEndian.PutUint32(v[44:], 0x4feff)
	binary.LittleEndian.PutUint16(v[48:], 72)
	v[55] = 2
	for _, f := range files {
		v = append(v, bytes.Repeat([]byte{0xff}, align(len(v), 8)-len(v))...)
		v = append(v, f...)
	}
	v = append(v, bytes.Repeat([]byte{0xff}, align(len(v)+free, 8)-len(v))...)
	binary.LittleEndian.PutUint64(v[32:], uint64(len(v)))
	total := uint16(0)
	for at := 0; at < 72; at += 2 {
		total += binary.LittleEndian.Uint16(v[at:])
	}
	binary.LittleEndian.PutUint16(v[50:], -total)
	return v
}

// compress compresses with another LZMA encoder than ours.
func compress(t testing.TB, content []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := xz.WriterConfig{SizeInHeader: true, Size: int64(len(content)), DictCap: 1 << 16}.NewWriter(&out)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(content); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// shape says how build wraps the modules.
type shape struct {
	free       int                     // bytes after the file that holds them all
	attributes byte                    // of that file and of each module
	after      []byte                  // a file after it
	pack       func(dxe []byte) []byte // section with the DXE volume; nil: LZMA
}

// build makes a firmware image: a volume of variables, then one whose only file
// has the compressed DXE volume.
func build(t testing.TB, modules []module, s shape) []byte {
	t.Helper()
	var files [][]byte
	for _, m := range modules {
		files = append(files, ffsFile(m.guid, 7, s.attributes,
			sections(section(0x10, m.body), section(sectionUI, utf16Bytes(m.name+"\x00")))))
	}
	dxe := sections(section(0x19, make([]byte, 8)), section(sectionVolume, ffsVolume(64, files...)))
	packed := guidedSection(guidLZMA, compress(t, dxe))
	if s.pack != nil {
		packed = s.pack(dxe)
	}
	all := [][]byte{ffsFile("9e21fd93-9c72-4c15-8c4b-e77f1db2d792", 0x0b, s.attributes, packed)}
	if s.after != nil {
		all = append(all, s.after)
	}
	variables := ffsVolume(128)
	copy(variables[16:], guidBytes("fff12b8d-7696-4c8b-a985-2747075b4f50"))
	variables[50], variables[51] = 0, 0
	total := uint16(0)
	for at := 0; at < 72; at += 2 {
		total += binary.LittleEndian.Uint16(variables[at:])
	}
	binary.LittleEndian.PutUint16(variables[50:], -total)
	return append(append(variables, ffsVolume(s.free, all...)...), make([]byte, 256)...)
}
