package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/erofs/go-erofs"

	"github.com/rootvouch/rootvouch/internal/needs"
)

// ociLayout writes an image layout with these layers.
func ociLayout(t *testing.T, layers ...[]byte) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "blobs", "sha256"), 0o700); err != nil {
		t.Fatal(err)
	}
	blob := func(data []byte, media string) map[string]any {
		digest := fmt.Sprintf("%x", sha256.Sum256(data))
		if err := os.WriteFile(filepath.Join(dir, "blobs", "sha256", digest), data, 0o600); err != nil {
			t.Fatal(err)
		}
		return map[string]any{"mediaType": media, "digest": "sha256:" + digest, "size": len(data)}
	}
	encode := func(v any) []byte {
		data, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	var descriptors []any
	for _, layer := range layers {
		var gz bytes.Buffer
		w := gzip.NewWriter(&gz)
		if _, err := w.Write(layer); err != nil {
			t.Fatal(err)
		}
		w.Close()
		descriptors = append(descriptors, blob(gz.Bytes(), "application/vnd.oci.image.layer.v1.tar+gzip"))
	}
	manifest := blob(encode(map[string]any{"schemaVersion": 2, "config": map[string]any{}, "layers": descriptors}), "application/vnd.oci.image.manifest.v1+json")
	for name, data := range map[string][]byte{
		"oci-layout": encode(map[string]any{"imageLayoutVersion": "1.0.0"}),
		"index.json": encode(map[string]any{"schemaVersion": 2, "manifests": []any{manifest}}),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func tarOf(t *testing.T, files ...string) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, name := range files {
		h := &tar.Header{Name: name, Mode: 0o644, Size: int64(len(name)), Typeflag: tar.TypeReg}
		if strings.HasSuffix(name, "/") {
			h.Typeflag, h.Size = tar.TypeDir, 0
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, name[:h.Size]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// names lists a source's files with go-erofs.
func names(t *testing.T, dir string) string {
	t.Helper()
	source, closeSource, err := Open(context.Background(), Input{Path: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer closeSource()
	b := mustBuild(t, source, Options{})
	payload := decrypt(t, b)
	filesystem, err := erofs.Open(bytes.NewReader(payload))
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	err = fs.WalkDir(filesystem, ".", func(name string, d fs.DirEntry, err error) error {
		if !d.IsDir() {
			all = append(all, name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(all, " ")
}

func TestOCI(t *testing.T) {
	needs.Tool(t, "cryptsetup")
	dir := ociLayout(t,
		tarOf(t, "a/one", "a/two", "b/three", "b/deep/four", "c/five", "file"),
		tarOf(t, "a/.wh.one", "b/.wh..wh..opq", "b/six", ".wh.c", "file/inside"),
		tarOf(t, "c/again", "a/.wh.nothing"))
	if _, _, err := Open(context.Background(), Input{Path: dir}); err == nil || !strings.Contains(err.Error(), `"file" is not a directory`) {
		t.Errorf("file below a file of a lower layer: got %v", err)
	}
	dir = ociLayout(t,
		tarOf(t, "a/one", "a/two", "b/three", "b/deep/four", "c/five", "d/", "d/x"),
		tarOf(t, "a/.wh.one", "b/six", "b/.wh..wh..opq", ".wh.c", "d"),
		tarOf(t, "c/again", "a/.wh.nothing"))
	if got, want := names(t, dir), "a/two b/six c/again d"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// TestOCIOthers: what BuildKit and Docker write is one image for one platform, too.
func TestOCIOthers(t *testing.T) {
	for name, change := range map[string]func(t *testing.T, dir string){
		"attestation beside the image": func(t *testing.T, dir string) {
			edit(t, dir, "index.json", `[{`, `[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"x","platform":{"architecture":"unknown","os":"unknown"},"annotations":{"vnd.docker.reference.type":"attestation-manifest"}},{`)
		},
		"something of a kind that nobody knows": func(t *testing.T, dir string) { edit(t, dir, "index.json", `[{`, `[{"digest":"x"},{`) },
		"media types of Docker": func(t *testing.T, dir string) {
			manifest := regexp.MustCompile("sha256:[0-9a-f]+").FindString(string(read(t, filepath.Join(dir, "index.json"))))
			path := filepath.Join("blobs", "sha256", strings.TrimPrefix(manifest, "sha256:"))
			before := len(read(t, filepath.Join(dir, path)))
			edit(t, dir, path, "vnd.oci.image.layer.v1.tar+gzip", "vnd.docker.image.rootfs.diff.tar.gzip")
			data := read(t, filepath.Join(dir, path))
			digest := fmt.Sprintf("%x", sha256.Sum256(data))
			if err := os.Rename(filepath.Join(dir, path), filepath.Join(dir, "blobs", "sha256", digest)); err != nil {
				t.Fatal(err)
			}
			edit(t, dir, "index.json", manifest, "sha256:"+digest)
			edit(t, dir, "index.json", fmt.Sprintf(`"size":%d`, before), fmt.Sprintf(`"size":%d`, len(data)))
			edit(t, dir, "index.json", "vnd.oci.image.manifest.v1+json", "vnd.docker.distribution.manifest.v2+json")
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := ociLayout(t, tarOf(t, "a"))
			change(t, dir)
			_, closeSource, err := Open(context.Background(), Input{Path: dir})
			if err != nil {
				t.Fatal(err)
			}
			closeSource()
		})
	}
	archive := write(t, "oci.tar", tarOf(t, "blobs/", "index.json", "oci-layout"))
	if _, _, err := Open(context.Background(), Input{Path: archive}); err == nil || !strings.Contains(err.Error(), "OCI image layout") {
		t.Errorf("tar of a layout: got error %v", err)
	}
}

func TestOCIRefuses(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(t *testing.T, dir string)
		want   string
	}{
		{"blob changed", func(t *testing.T, dir string) { eachBlob(t, dir, func(b []byte) []byte { b[len(b)-9] ^= 1; return b }) }, "digest sha256"},
		{"blob longer", func(t *testing.T, dir string) { eachBlob(t, dir, func(b []byte) []byte { return append(b, 0) }) }, "bytes, want"},
		{"version", func(t *testing.T, dir string) { edit(t, dir, "oci-layout", "1.0.0", "2.0.0") }, `imageLayoutVersion is "2.0.0"`},
		{"no manifest", func(t *testing.T, dir string) { edit(t, dir, "index.json", "manifest.v1", "manifest.v9") }, "mediaType is"},
		{"digest names a file elsewhere", func(t *testing.T, dir string) { edit(t, dir, "index.json", "sha256:", "sha256:../../") }, "want sha256 in lower-case hex"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := ociLayout(t, tarOf(t, "a"))
			c.change(t, dir)
			if _, _, err := Open(context.Background(), Input{Path: dir}); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got error %v, want one with %q", err, c.want)
			}
		})
	}
}

func edit(t *testing.T, dir, name, from, to string) {
	t.Helper()
	path := filepath.Join(dir, name)
	data := strings.Replace(string(read(t, path)), from, to, 1)
	if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
		t.Fatal(err)
	}
}

func eachBlob(t *testing.T, dir string, change func([]byte) []byte) {
	t.Helper()
	blobs, err := filepath.Glob(filepath.Join(dir, "blobs", "sha256", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range blobs {
		if err := os.WriteFile(path, change(read(t, path)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}
