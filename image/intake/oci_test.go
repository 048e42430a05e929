package intake

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rootvouch/rootvouch/image/rootfs"
	"github.com/rootvouch/rootvouch/internal/needs"
)

// layout is an OCI image layout under construction.
type layout struct {
	t   testing.TB
	dir string
}

func newLayout(t testing.TB) *layout {
	t.Helper()
	l := &layout{t: t, dir: t.TempDir()}
	l.write("oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`))
	return l
}

func (l *layout) write(name string, data []byte) {
	l.t.Helper()
	path := filepath.Join(l.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		l.t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o644); err != nil {
		l.t.Fatal(err)
	}
}

type object = map[string]any

// blob writes a blob, JSON of what is no bytes, and returns its descriptor.
func (l *layout) blob(media string, content any) object {
	l.t.Helper()
	data, ok := content.([]byte)
	if !ok {
		var err error
		if data, err = json.Marshal(content); err != nil {
			l.t.Fatal(err)
		}
	}
	digest := fmt.Sprintf("%x", sha256.Sum256(data))
	l.write("blobs/sha256/"+digest, data)
	return object{"mediaType": media, "digest": "sha256:" + digest, "size": len(data)}
}

// image writes an image of uncompressed layers; it is in no index yet.
func (l *layout) image(architecture string, layers ...[]byte) object {
	l.t.Helper()
	var descriptors, ids []any
	for _, data := range layers {
		var packed bytes.Buffer
		z := gzip.NewWriter(&packed)
		if _, err := z.Write(data); err != nil {
			l.t.Fatal(err)
		}
		if err := z.Close(); err != nil {
			l.t.Fatal(err)
		}
		descriptors = append(descriptors, l.blob(mediaLayer+"+gzip", packed.Bytes()))
		ids = append(ids, fmt.Sprintf("sha256:%x", sha256.Sum256(data)))
	}
	config := l.blob("application/vnd.oci.image.config.v1+json", object{"os": "linux", "architecture": architecture,
		"config": object{}, "rootfs": object{"type": "layers", "diff_ids": ids}})
	return l.blob(mediaManifest, object{"schemaVersion": 2, "mediaType": mediaManifest, "config": config, "layers": descriptors})
}

// tagged is a descriptor with a tag.
func tagged(d object, tag string) object {
	d = maps.Clone(d)
	d["annotations"] = object{"org.opencontainers.image.ref.name": tag}
	return d
}

// done writes the index.
func (l *layout) done(manifests ...object) string {
	l.t.Helper()
	data, err := json.Marshal(object{"schemaVersion": 2, "manifests": manifests})
	if err != nil {
		l.t.Fatal(err)
	}
	l.write("index.json", data)
	return l.dir
}

// memorySpool unpacks into memory.
func memorySpool(r io.Reader, c Compression) (io.ReaderAt, int64, error) {
	unpacked, err := c.Unpack(r)
	if err != nil {
		return nil, 0, err
	}
	data, err := io.ReadAll(unpacked)
	return bytes.NewReader(data), int64(len(data)), err
}

func readOCI(dir, image string) (*rootfs.Tree, error) {
	r := &Reader{Tree: rootfs.New(), Image: image}
	return r.Tree, r.ReadOCI(context.Background(), dir, memorySpool)
}

func symlinkOf(name, target string) entry {
	return entry{tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777, ModTime: time.Unix(1e9, 0)}, ""}
}

func at(e entry) entry { e.ModTime = time.Unix(1e9, 0); return e }

// cut takes the end-of-archive marker away.
func cut(data []byte) []byte { return data[:len(data)-2*TarBlock] }

// TestAsUmoci applies layers as the reference tool does.
func TestAsUmoci(t *testing.T) {
	umoci := needs.Tool(t, "umoci")
	merged := makeTar(t, dirOf("usr/"), dirOf("usr/lib/"), fileOf("usr/lib/a.so", "a"), symlinkOf("lib", "usr/lib"), symlinkOf("abs", "/usr/lib"))
	for _, c := range []struct {
		name   string
		layers [][]byte
	}{
		{"entry through a link", [][]byte{merged, makeTar(t, fileOf("lib/b.so", "b"))}},
		{"entry through an absolute link", [][]byte{merged, makeTar(t, fileOf("abs/b.so", "b"))}},
		{"directories through a link", [][]byte{merged, makeTar(t, dirOf("lib/x/"), dirOf("lib/x/y/"), fileOf("lib/x/y/z", "z"))}},
		{"link that would lead out", [][]byte{makeTar(t, dirOf("a/"), symlinkOf("a/out", "../../../../etc"), dirOf("etc/")), makeTar(t, fileOf("a/out/passwd", "p"))}},
		{"whiteout through a link", [][]byte{merged, makeTar(t, fileOf("lib/.wh.a.so", ""))}},
		{"opaque through a link", [][]byte{merged, makeTar(t, fileOf("lib/.wh..wh..opq", ""), fileOf("lib/c.so", "c"))}},
		{"whiteout of a link", [][]byte{merged, makeTar(t, fileOf(".wh.lib", ""))}},
		{"hard link through a link", [][]byte{merged, makeTar(t, at(linkOf("lib/b.so", "lib/a.so")), at(linkOf("usr/lib/c.so", "abs/a.so")))}},
		{"directory in place of a link", [][]byte{merged, makeTar(t, dirOf("lib/"), fileOf("lib/b.so", "b"))}},
		{"file in place of a directory", [][]byte{merged, makeTar(t, fileOf("usr/lib", "file"))}},
		{"link in place of a directory", [][]byte{makeTar(t, dirOf("lib/"), fileOf("lib/a", "a"), dirOf("usr/"), dirOf("usr/lib/")), makeTar(t, symlinkOf("lib", "usr/lib"), fileOf("lib/b", "b"))}},
		{"names that begin with a slash", [][]byte{merged, makeTar(t, fileOf("/usr/lib/d.so", "d"))}},
		{"names with dots", [][]byte{merged, makeTar(t, fileOf("./usr/../usr/lib/d.so", "d"))}},
		{"no end-of-archive marker", [][]byte{cut(merged), cut(makeTar(t, fileOf("usr/f", strings.Repeat("f", 700))))}},
		{"layer of zero bytes", [][]byte{merged, {}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newLayout(t)
			dir := l.done(tagged(l.image("amd64", c.layers...), "latest"))
			tree, err := readOCI(dir, "")
			if err != nil {
				t.Fatal(err)
			}
			bundle := filepath.Join(t.TempDir(), "bundle")
			args := []string{"unpack", "--image", dir + ":latest", bundle}
			if os.Geteuid() != 0 {
				args = slices.Insert(args, 1, "--rootless")
			}
			if out, err := exec.Command(umoci, args...).CombinedOutput(); err != nil {
				t.Fatalf("umoci: %v: %s", err, out)
			}
			got, want := shape(t, tree), shape(t, readDir(t, filepath.Join(bundle, "rootfs")))
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("umoci makes another tree: %s", diff)
			}
		})
	}
}

// shape is what layers say of a tree: no times of directories, which a tool that
// unpacks touches.
func shape(t testing.TB, tree *rootfs.Tree) map[string]string {
	t.Helper()
	all := map[string]string{}
	for name, f := range flatten(t, tree) {
		all[name] = fmt.Sprintf("%o %d %q", f.Mode, f.Links, f.Data)
	}
	delete(all, ".")
	return all
}

// TestAufs: directories that aufs kept beside the files are none of the image,
// but hard links lead into one.
func TestAufs(t *testing.T) {
	l := newLayout(t)
	dir := l.done(l.image("amd64", makeTar(t,
		dirOf(".wh..wh.plnk/"), fileOf(".wh..wh.plnk/97.123", "linked"), dirOf(".wh..wh.orph/"), fileOf(".wh..wh.aufs", ""),
		linkOf("a", ".wh..wh.plnk/97.123"), linkOf("b", ".wh..wh.plnk/97.123"), fileOf("c", "c"))))
	tree, err := readOCI(dir, "")
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"a": `100644 2 "linked"`, "b": `100644 2 "linked"`, "c": `100644 1 "c"`}
	if diff := cmp.Diff(want, shape(t, tree)); diff != "" {
		t.Error(diff)
	}
}

// TestCompressionByContent: the media type says gzip, the blob is a plain tar or a
// zstd.
func TestCompressionByContent(t *testing.T) {
	data := makeTar(t, fileOf("f", "f"))
	l := newLayout(t)
	manifest := l.blob(mediaManifest, object{"layers": []any{l.blob(mediaLayer+"+gzip", data), l.blob(dockerForeign, data)}})
	if tree, err := readOCI(l.done(manifest), ""); err != nil || !has(tree, "f") {
		t.Errorf("got error %v", err)
	}
}

func has(tree *rootfs.Tree, name string) bool {
	_, err := tree.Lookup(name)
	return err == nil
}

// TestBlobLinks: a blob may be a link to a file of the layout, and to nothing else.
func TestBlobLinks(t *testing.T) {
	l := newLayout(t)
	dir := l.done(l.image("amd64", makeTar(t, fileOf("f", "f"))))
	blobs, err := filepath.Glob(filepath.Join(dir, "blobs", "sha256", "*"))
	if err != nil {
		t.Fatal(err)
	}
	outside := t.TempDir()
	for _, name := range blobs {
		moved := filepath.Join(dir, "store-"+filepath.Base(name))
		if err := os.Rename(name, moved); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink("../../store-"+filepath.Base(name), name); err != nil {
			t.Fatal(err)
		}
	}
	if tree, err := readOCI(dir, ""); err != nil || !has(tree, "f") {
		t.Errorf("links inside the layout: got error %v", err)
	}
	moved := filepath.Join(outside, "blob")
	if err := os.Rename(filepath.Join(dir, "store-"+filepath.Base(blobs[0])), moved); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(blobs[0]); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(moved, blobs[0]); err != nil {
		t.Fatal(err)
	}
	if _, err := readOCI(dir, ""); err == nil || !strings.Contains(err.Error(), "cp -rL") {
		t.Errorf("link out of the layout: got error %v", err)
	}
}

// TestChoice: of several images the one for linux/amd64 is taken, or the one that
// was asked for.
func TestChoice(t *testing.T) {
	l := newLayout(t)
	amd := l.image("amd64", makeTar(t, fileOf("amd64", "")))
	other := l.image("amd64", makeTar(t, fileOf("other", "")))
	arm := l.image("arm64", makeTar(t, fileOf("arm64", "")))
	signature := l.blob(mediaManifest, object{"config": object{}, "layers": []any{l.blob("application/vnd.dev.cosign.simplesigning.v1+json", []byte("{}"))}})
	artifact := l.blob("application/vnd.oci.artifact.manifest.v1+json", object{"blobs": []any{}})
	withPlatform := func(d object, architecture string) object {
		d = maps.Clone(d)
		d["platform"] = object{"os": "linux", "architecture": architecture}
		return d
	}
	absent := withPlatform(object{"mediaType": mediaManifest, "digest": "sha256:" + strings.Repeat("0", 64), "size": 1}, "riscv64")
	windows := object{"mediaType": mediaManifest, "digest": "sha256:" + strings.Repeat("1", 64), "size": 1,
		"platform": object{"os": "windows", "architecture": "amd64"}}
	nested := l.blob(mediaIndex, object{"manifests": []any{withPlatform(arm, "arm64"), withPlatform(amd, "amd64"), absent, windows}})
	for _, c := range []struct {
		name  string
		index []object
		image string
		want  string // a file of the image, or "error: " and a part of the error
	}{
		{"two platforms", []object{arm, amd}, "", "amd64"},
		{"an index of platforms, blobs of others absent", []object{tagged(nested, "latest")}, "", "amd64"},
		{"by tag, platforms below", []object{tagged(nested, "latest"), tagged(other, "old")}, "latest", "amd64"},
		{"two tags of one image", []object{tagged(amd, "a"), tagged(amd, "b")}, "", "amd64"},
		{"two tags", []object{tagged(amd, "a"), tagged(other, "b")}, "", "error: 2 images are for linux/amd64, want 1. There are:\n  a linux/amd64 " + amd["digest"].(string)},
		{"by tag", []object{tagged(amd, "a"), tagged(other, "b")}, "b", "other"},
		{"by digest", []object{tagged(amd, "a"), tagged(other, "b")}, other["digest"].(string), "other"},
		{"no such tag", []object{tagged(amd, "a")}, "b", "error: 0 images are for b, want 1"},
		{"arm64 only", []object{tagged(arm, "a")}, "", "error: 0 images are for linux/amd64, want 1. There are:\n  a linux/arm64"},
		{"arm64 by tag", []object{tagged(arm, "a")}, "a", "error: 0 images are for a, want 1"},
		{"arm64 by platform", []object{arm, amd}, "linux/arm64", "arm64"},
		{"a signature beside it", []object{tagged(amd, "a"), tagged(signature, "a.sig")}, "", "amd64"},
		{"a signature alone", []object{tagged(signature, "a.sig")}, "", `error: mediaType is "application/vnd.dev.cosign`},
		{"an unknown kind beside it", []object{tagged(artifact, "sbom"), tagged(amd, "a")}, "", "amd64"},
		{"an unknown kind alone", []object{tagged(artifact, "sbom")}, "", `error: mediaType is "application/vnd.oci.artifact.manifest.v1+json"`},
		{"nothing", nil, "", "error: names no image"},
	} {
		t.Run(c.name, func(t *testing.T) {
			tree, err := readOCI(l.done(c.index...), c.image)
			if want, refused := strings.CutPrefix(c.want, "error: "); refused {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("got error %v, want one with %q", err, want)
				}
			} else if err != nil || !has(tree, c.want) {
				t.Errorf("got error %v, want the image with %q", err, c.want)
			}
		})
	}
	var choice *ChoiceError
	if _, err := readOCI(l.done(arm), ""); !errors.As(err, &choice) {
		t.Errorf("got %v, want a ChoiceError", err)
	}
}
