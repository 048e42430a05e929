package survey

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"

	"github.com/rootvouch/rootvouch/image/erofs"
	"github.com/rootvouch/rootvouch/image/rootfs"
)

// initPath is the program that PID 1 executes at the hand-over.
const initPath = "/sbin/init"

// hidden counts the files that overlayfs, under which a VM mounts its root, treats as its own:
// see rootfs.Tree.Marked. The disk keeps them, but a booted VM hides or changes them.
func hidden(r *root) ([]string, error) {
	count, name := 0, ""
	r.Root().Walk(func(n rootfs.Node) bool {
		if r.Marked(n) {
			if count++; name == "" || n.Name() < name {
				name = n.Name()
			}
		}
		return true
	})
	if count == 0 {
		return nil, nil
	}
	return one(fmt.Sprintf("%d files, such as %q, have a meaning to overlayfs, under which a VM mounts its root: in the VM they are missing or unreadable", count, name))
}

// initProgram says why the kernel would not execute the root's init.
func initProgram(r *root) ([]string, error) {
	const noBoot = ": no VM boots from it"
	n, err := r.Follow(initPath)
	if errors.Is(err, fs.ErrNotExist) {
		if r.has(initPath) {
			return one(fmt.Sprintf("%s is a dangling link (%v)%s", initPath, err, noBoot))
		}
		if dirs := r.Root().Children(); len(dirs) == 1 && dirs[0].IsDir() && r.has(path.Join(dirs[0].Name(), "etc")) {
			return one(fmt.Sprintf("the root has no %s, and everything is in %q: is that directory the root?", initPath, dirs[0].Name()))
		}
		return one("the root has no " + initPath + ": it can be a data disk, but no VM boots from it")
	}
	if err != nil {
		return one(fmt.Sprintf("%s: %v%s", initPath, err, noBoot))
	}
	why, err := r.executable(n, 0)
	if err != nil || why == "" {
		return nil, err
	}
	return one(fmt.Sprintf("%s %s%s", initPath, why, noBoot))
}

// maxScripts bounds how many script interpreters may themselves be scripts
// (BINPRM_MAX_RECURSION, Linux, fs/exec.c).
const maxScripts = 4

// executable says why the kernel of a VM would not execute a file, or returns "".
func (r *root) executable(n rootfs.Node, depth int) (string, error) {
	if n.Type() != erofs.TypeRegular {
		return "is no regular file", nil
	}
	if n.Stat().Mode&0o111 == 0 {
		return fmt.Sprintf("has mode %04o and is not executable", n.Stat().Mode&0o7777), nil
	}
	data, err := head(n, 1<<16)
	if err != nil {
		return "", err
	}
	if line, ok := bytes.CutPrefix(data, []byte("#!")); ok {
		line, _, _ = bytes.Cut(line, []byte("\n"))
		interpreter, _, _ := strings.Cut(strings.TrimLeft(string(line), " \t"), " ")
		return r.interpreted(strings.TrimRight(interpreter, "\t\r"), depth)
	}
	if !bytes.HasPrefix(data, []byte(elf.ELFMAG)) || len(data) < elfHeaderSize {
		return "is neither an ELF program nor a script", nil
	}
	machine := elf.Machine(binary.LittleEndian.Uint16(data[0x12:]))
	if data[elf.EI_DATA] == byte(elf.ELFDATA2MSB) {
		machine = elf.Machine(binary.BigEndian.Uint16(data[0x12:]))
	}
	if machine != elf.EM_X86_64 {
		return fmt.Sprintf("is a program for %v, but a VM has x86-64", machine), nil
	}
	if interpreter := elfInterpreter(data); interpreter != "" {
		return r.interpreted(interpreter, depth)
	}
	return "", nil
}

// elfHeaderSize is the header size of a 64-bit ELF file, in bytes (ELF-64 Object File Format,
// version 1.5, figure 2).
const elfHeaderSize = 64

// elfInterpreter returns the PT_INTERP of a program that begins with data. It returns "" if
// there is none, or if it is outside of data.
func elfInterpreter(data []byte) string {
	le := binary.LittleEndian
	at, size, count := le.Uint64(data[0x20:]), uint64(le.Uint16(data[0x36:])), uint64(le.Uint16(data[0x38:]))
	for i := range count {
		header := at + i*size
		if size < 56 || header > uint64(len(data)) || uint64(len(data))-header < size {
			return ""
		}
		program := data[header:]
		if elf.ProgType(le.Uint32(program)) != elf.PT_INTERP {
			continue
		}
		start, length := le.Uint64(program[0x08:]), le.Uint64(program[0x20:])
		if start > uint64(len(data)) || length > uint64(len(data))-start {
			return ""
		}
		return string(bytes.TrimRight(data[start:start+length], "\x00"))
	}
	return ""
}

// interpreted is executable for the program that interprets a script or an ELF file.
func (r *root) interpreted(name string, depth int) (string, error) {
	n, err := r.Follow(name)
	if err != nil {
		return fmt.Sprintf("needs %s, which does not exist", name), nil
	}
	if depth >= maxScripts {
		return "is a script whose interpreters are scripts", nil
	}
	why, err := r.executable(n, depth+1)
	if why != "" {
		why = fmt.Sprintf("needs %s, which %s", name, why)
	}
	return why, err
}

// rootMode checks the mode of the root directory, which may be that of a temporary directory.
func rootMode(r *root) ([]string, error) {
	s := r.Root().Stat()
	if mode := s.Mode & 0o7777; mode&0o055 != 0o055 || mode&0o700 != 0o700 {
		return one(fmt.Sprintf("/ has mode %04o: programs that are not root can reach no file (0755 is usual)", mode))
	}
	if s.Mode&0o022 != 0 {
		return one(fmt.Sprintf("/ has mode %04o: programs that are not root can replace what is in it (0755 is usual)", s.Mode&0o7777))
	}
	return nil, nil
}

// oneOwner finds a tree that a user other than root unpacked.
func oneOwner(r *root) ([]string, error) {
	uid, count, same := uint32(0), 0, true
	r.Root().Walk(func(n rootfs.Node) bool {
		if n.Name() == "." || n.Name() == "lost+found" { // mke2fs makes it
			return true
		}
		if s := n.Stat(); count == 0 {
			uid = s.UID
		} else if s.UID != uid {
			same = false
		}
		count++
		return same
	})
	if count == 0 || !same || uid == 0 {
		return nil, nil
	}
	return one(fmt.Sprintf("all files belong to user %d: programs with setuid do not become root, and that user can change every file (read the tree as root, or from a tar that keeps owners)", uid))
}

// makers reports volumes of the VM that no program in the root can format.
func makers(r *root, filesystems []string) ([]string, error) {
	var texts []string
	for _, f := range filesystems {
		name := "mkfs." + f
		// The paths where PID 1 looks for the program (boot/volumes).
		if !r.hasAny("usr/sbin/"+name, "sbin/"+name, "usr/bin/"+name) {
			texts = append(texts, fmt.Sprintf("there is no %s in /usr/sbin, /sbin or /usr/bin: a new volume with %s is refused, because nothing can make it", name, f))
		}
	}
	return texts, nil
}

// resolver finds an /etc/resolv.conf that names no server. If the file is missing, PID 1 makes
// a link there.
func resolver(r *root) ([]string, error) {
	const name = "etc/resolv.conf"
	text, ok, err := r.text(name)
	if err != nil || !ok {
		return nil, err
	}
	for line := range strings.Lines(text) {
		if strings.HasPrefix(strings.TrimSpace(line), "nameserver") {
			return nil, nil
		}
	}
	return one("/etc/resolv.conf names no server, so no name will be resolved: leave the file out, and the VM gets one with the servers of its network")
}
