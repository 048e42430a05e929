// Package tlogdir keeps a transparency log in a directory: C2SP's tlog-tiles, with a signed checkpoint.
//
// Every writer makes the same tiles from the same leaves in the same order. Reading verifies:
// bytes that do not hash to the checkpoint's root are an error. The formats are those of
// https://c2sp.org/tlog-tiles and https://c2sp.org/tlog-checkpoint.
package tlogdir

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/rootvouch/rootvouch/internal/durable"
	"github.com/rootvouch/rootvouch/pins"
)

const (
	tileHeight = 8
	tileWidth  = 1 << tileHeight

	// MaxLeaf bounds a leaf in bytes: a bundle has its size in 16 bits.
	MaxLeaf = 1<<16 - 1

	checkpointName = "checkpoint"
	keyName        = "key"
	// cosignedName is the file of the checkpoint with cosignatures. It is written later than
	// the checkpoint, and is not part of tlog-tiles.
	cosignedName = "checkpoint.cosigned"
	// blobs is the directory of contents that leaves name by their SHA-256. It is not part of
	// tlog-tiles.
	blobs = "blob"
)

// Dir is a log's directory.
type Dir string

// Create makes a new directory, mode 0700, with the checkpoint of an empty log and the key that
// verifies it. The error matches os.ErrExist if the directory exists.
func Create(path, public string, signed []byte) (Dir, error) {
	d := Dir(path)
	if err := os.Mkdir(path, 0o700); err != nil {
		return "", fmt.Errorf("creating log: %w", err)
	}
	err := durable.WriteFile(d.path(keyName), []byte(public+"\n"), 0o600)
	if err == nil {
		err = d.WriteCheckpoint(signed)
	}
	if err != nil {
		return "", errors.Join(fmt.Errorf("creating log: %w", err), os.RemoveAll(path))
	}
	return d, nil
}

func (d Dir) path(name string) string { return filepath.Join(string(d), filepath.FromSlash(name)) }

// Key reads the verification key in the directory. Anyone who can write to the directory can
// replace the key, so it says only which log this claims to be.
func (d Dir) Key() (string, error) {
	data, err := os.ReadFile(d.path(keyName))
	if err != nil {
		return "", fmt.Errorf("reading the log's key: %w", err)
	}
	return strings.TrimSuffix(string(data), "\n"), nil
}

// Checkpoint reads the newest signed checkpoint without verifying it.
func (d Dir) Checkpoint() ([]byte, error) {
	data, err := os.ReadFile(d.path(checkpointName))
	if err != nil {
		return nil, fmt.Errorf("reading the log's checkpoint: %w", err)
	}
	return data, nil
}

// WriteCheckpoint replaces the checkpoint. All tiles of its tree must be there.
func (d Dir) WriteCheckpoint(signed []byte) error {
	if err := durable.WriteFile(d.path(checkpointName), signed, 0o600); err != nil {
		return fmt.Errorf("writing the log's checkpoint: %w", err)
	}
	return nil
}

// Append writes the tiles of the tree that has leaves after those of old, and returns that
// tree. It first verifies old's right edge. It writes no checkpoint: readers see the old tree
// until WriteCheckpoint.
func (d Dir) Append(old Tree, leaves [][]byte) (Tree, error) {
	if len(leaves) == 0 {
		return old, nil
	}
	hashes := map[int64]tlog.Hash{}
	reader := tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		return d.readOver(hashes, old, indexes)
	})
	for i, leaf := range leaves {
		if len(leaf) > MaxLeaf {
			return Tree{}, fmt.Errorf("appending to the log: leaf has %d bytes, want at most %d", len(leaf), MaxLeaf)
		}
		n := old.Size + int64(i)
		stored, err := tlog.StoredHashes(n, leaf, reader)
		if err != nil {
			return Tree{}, fmt.Errorf("appending to the log: %w", err)
		}
		at := tlog.StoredHashIndex(0, n)
		for j, h := range stored {
			hashes[at+int64(j)] = h
		}
	}
	grown := Tree{Origin: old.Origin, Size: old.Size + int64(len(leaves))}
	var err error
	if grown.Root, err = tlog.TreeHash(grown.Size, reader); err != nil {
		return Tree{}, fmt.Errorf("appending to the log: %w", err)
	}
	if err := d.writeBundles(old.Size, leaves); err != nil {
		return Tree{}, fmt.Errorf("appending to the log: %w", err)
	}
	for _, tile := range tlog.NewTiles(tileHeight, old.Size, grown.Size) {
		data, err := tlog.ReadTileData(tile, reader)
		if err == nil {
			err = d.write(tilePath(strconv.Itoa(tile.L), tile.N, tile.W), data)
		}
		if err != nil {
			return Tree{}, fmt.Errorf("appending to the log: %w", err)
		}
	}
	return grown, nil
}

// readOver takes hashes from fresh, and the others from old's tiles.
func (d Dir) readOver(fresh map[int64]tlog.Hash, old Tree, indexes []int64) ([]tlog.Hash, error) {
	found := make([]tlog.Hash, len(indexes))
	var ask []int64
	var where []int
	for i, index := range indexes {
		if h, ok := fresh[index]; ok {
			found[i] = h
			continue
		}
		ask, where = append(ask, index), append(where, i)
	}
	if len(ask) == 0 {
		return found, nil
	}
	hashes, err := d.hashes(old).ReadHashes(ask)
	if err != nil {
		return nil, err
	}
	for i, h := range hashes {
		found[where[i]] = h
	}
	return found, nil
}

// hashes reads verified hashes of a tree.
func (d Dir) hashes(t Tree) tlog.HashReader {
	return tlog.TileHashReader(tlog.Tree{N: t.Size, Hash: t.Root}, tiles{d})
}

// tiles is a tlog.TileReader.
type tiles struct{ dir Dir }

func (tiles) Height() int { return tileHeight }

func (r tiles) ReadTiles(all []tlog.Tile) ([][]byte, error) {
	var data [][]byte
	for _, t := range all {
		one, err := r.dir.read(strconv.Itoa(t.L), t.N, t.W, func(full []byte) ([]byte, error) {
			if len(full) < t.W*tlog.HashSize {
				return nil, fmt.Errorf("tile has %d bytes, want at least %d", len(full), t.W*tlog.HashSize)
			}
			return full[:t.W*tlog.HashSize], nil
		})
		if err != nil {
			return nil, err
		}
		data = append(data, one)
	}
	return data, nil
}

func (tiles) SaveTiles([]tlog.Tile, [][]byte) {}

// read reads a tile or bundle of width w, or cuts it from a wider one that has replaced it.
func (d Dir) read(level string, n int64, w int, cut func([]byte) ([]byte, error)) ([]byte, error) {
	var first error
	for range 3 { // a publisher may remove a tile during the search
		data, err := os.ReadFile(d.path(tilePath(level, n, w)))
		if err == nil {
			return cut(data)
		}
		if first == nil {
			first = err
		}
		if w == tileWidth || !errors.Is(err, fs.ErrNotExist) {
			break
		}
		if wider := d.widest(level, n); wider > w {
			if data, err := os.ReadFile(d.path(tilePath(level, n, wider))); err == nil {
				return cut(data)
			}
		}
	}
	return nil, first
}

// widest is the width of the widest tile or bundle, 0 if there is none.
func (d Dir) widest(level string, n int64) int {
	full := d.path(tilePath(level, n, tileWidth))
	if _, err := os.Stat(full); err == nil {
		return tileWidth
	}
	widest := 0
	for _, w := range partials(full) {
		widest = max(widest, w)
	}
	return widest
}

// partials lists the widths of the partial tiles beside the path of a full one.
func partials(full string) []int {
	entries, _ := os.ReadDir(full + ".p")
	var all []int
	for _, e := range entries {
		if w, err := strconv.Atoi(e.Name()); err == nil && w > 0 && w < tileWidth {
			all = append(all, w)
		}
	}
	return all
}

// Tidy removes the partial tiles and bundles of an older tree that grown has wider ones of. The
// checkpoint of grown must be written.
func (d Dir) Tidy(old, grown Tree) error {
	levels := []string{"entries"}
	for l, size := 0, grown.Size; size > 0; l, size = l+1, size/tileWidth {
		levels = append(levels, strconv.Itoa(l))
	}
	for i, level := range levels {
		oldWidth, newWidth := old.Size, grown.Size
		for range i - 1 {
			oldWidth, newWidth = oldWidth/tileWidth, newWidth/tileWidth
		}
		n, w := oldWidth/tileWidth, int(oldWidth%tileWidth)
		if w == 0 || oldWidth == newWidth {
			continue
		}
		full := d.path(tilePath(level, n, tileWidth))
		for _, there := range partials(full) {
			if there > w {
				continue
			}
			if err := os.Remove(filepath.Join(full+".p", strconv.Itoa(there))); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("tidying the log: %w", err)
			}
		}
	}
	return nil
}

// write makes a tile or bundle durable. If the file exists, it has the same bytes.
func (d Dir) write(name string, data []byte) error {
	path := d.path(name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	return durable.WriteFile(path, data, 0o600)
}

// writeBundles writes the entry bundles that change when leaves follow the first n.
func (d Dir) writeBundles(n int64, leaves [][]byte) error {
	var bundle []byte
	if w := int(n % tileWidth); w > 0 {
		var err error
		if bundle, err = d.read("entries", n/tileWidth, w, cutBundle(w)); err != nil {
			return err
		}
	}
	room := 0
	for _, leaf := range leaves[:min(len(leaves), tileWidth)] {
		room += 2 + len(leaf)
	}
	bundle = slices.Grow(bundle, room)
	for i, leaf := range leaves {
		bundle = binary.BigEndian.AppendUint16(bundle, uint16(len(leaf)))
		bundle = append(bundle, leaf...)
		n++
		if n%tileWidth != 0 && i != len(leaves)-1 {
			continue
		}
		w := int((n-1)%tileWidth) + 1
		if err := d.write(tilePath("entries", (n-1)/tileWidth, w), bundle); err != nil {
			return err
		}
		bundle = bundle[:0]
	}
	return nil
}

// cutBundle returns a function that takes the first w entries of a bundle.
func cutBundle(w int) func([]byte) ([]byte, error) {
	return func(data []byte) ([]byte, error) {
		rest := data
		for range w {
			var err error
			if _, rest, err = entry(rest); err != nil {
				return nil, err
			}
		}
		return data[:len(data)-len(rest)], nil
	}
}

// entry takes the first entry off a bundle.
func entry(bundle []byte) (leaf, rest []byte, err error) {
	if len(bundle) < 2 || len(bundle)-2 < int(binary.BigEndian.Uint16(bundle)) {
		return nil, nil, errors.New("entry bundle is truncated")
	}
	n := int(binary.BigEndian.Uint16(bundle))
	return bundle[2 : 2+n], bundle[2+n:], nil
}

// tilePath is the name of a tile in tlog-tiles (level is a number, or "entries").
func tilePath(level string, n int64, w int) string {
	number := fmt.Sprintf("%03d", n%1000)
	for n >= 1000 {
		n /= 1000
		number = fmt.Sprintf("x%03d/%s", n%1000, number)
	}
	path := "tile/" + level + "/" + number
	if w < tileWidth {
		path += ".p/" + strconv.Itoa(w)
	}
	return path
}

// Read calls visit with the leaves of a tree in order, from index from on. Each leaf is
// verified against the tree's root.
func (d Dir) Read(t Tree, from int64, visit func(index int64, leaf []byte) error) error {
	for n := from / tileWidth; n*tileWidth < t.Size; n++ {
		w := int(min(tileWidth, t.Size-n*tileWidth))
		bundle, err := d.read("entries", n, w, cutBundle(w))
		if err != nil {
			return fmt.Errorf("reading leaves from %d: %w", n*tileWidth, err)
		}
		var indexes []int64
		for i := range int64(w) {
			indexes = append(indexes, tlog.StoredHashIndex(0, n*tileWidth+i))
		}
		want, err := d.hashes(t).ReadHashes(indexes)
		if err != nil {
			return fmt.Errorf("reading leaves from %d: %w", n*tileWidth, err)
		}
		for i := range int64(w) {
			var leaf []byte
			leaf, bundle, _ = entry(bundle) // cutBundle has checked the bundle
			index := n*tileWidth + i
			if tlog.RecordHash(leaf) != want[i] {
				return fmt.Errorf("reading leaf %d: it does not hash to the tree's root: it was changed", index)
			}
			if index < from {
				continue
			}
			if err := visit(index, leaf); err != nil {
				return err
			}
		}
	}
	return nil
}

// CheckEdge verifies that the tiles at the right edge of a tree hash to its root. It reads a
// few tiles, however large the tree is.
func (d Dir) CheckEdge(t Tree) error {
	if t.Size == 0 {
		return nil
	}
	reader := d.hashes(t)
	if _, err := reader.ReadHashes([]int64{tlog.StoredHashIndex(0, t.Size-1)}); err != nil {
		return fmt.Errorf("verifying the log's right edge: %w", err)
	}
	return nil
}

// CheckExtends proves that grown has all leaves of old, in their places.
func (d Dir) CheckExtends(old, grown Tree) error {
	switch {
	case old.Origin != grown.Origin:
		return fmt.Errorf("origin is %q, want %q", grown.Origin, old.Origin)
	case old.Size > grown.Size:
		return fmt.Errorf("log has %d leaves, want at least %d: it was cut", grown.Size, old.Size)
	case old.Size == grown.Size && old.Root != grown.Root:
		return fmt.Errorf("root of %d leaves is %s, want %s: this is another log", grown.Size, grown.Root, old.Root)
	case old.Size == grown.Size || old.Size == 0:
		return nil
	}
	proof, err := d.Proof(old.Size, grown)
	if err != nil {
		return err
	}
	if err := tlog.CheckTree(proof, grown.Size, grown.Root, old.Size, old.Root); err != nil {
		return fmt.Errorf("log does not extend the %d leaves with root %s: it was changed", old.Size, old.Root)
	}
	return nil
}

// Proof proves that a tree has its first size leaves in their places. With none or all of the
// leaves there is nothing to prove.
func (d Dir) Proof(size int64, grown Tree) (tlog.TreeProof, error) {
	if size == 0 || size == grown.Size {
		return nil, nil
	}
	proof, err := tlog.ProveTree(grown.Size, size, d.hashes(grown))
	if err != nil {
		return nil, fmt.Errorf("proving that the log extends %d leaves: %w", size, err)
	}
	return proof, nil
}

// Cosigned reads the newest cosigned checkpoint. The error matches fs.ErrNotExist if there is
// none.
func (d Dir) Cosigned() ([]byte, error) {
	data, err := os.ReadFile(d.path(cosignedName))
	if err != nil {
		return nil, fmt.Errorf("reading the cosigned checkpoint: %w", err)
	}
	return data, nil
}

// WriteCosigned replaces the cosigned checkpoint.
func (d Dir) WriteCosigned(signed []byte) error {
	if err := durable.WriteFile(d.path(cosignedName), signed, 0o600); err != nil {
		return fmt.Errorf("writing the cosigned checkpoint: %w", err)
	}
	return nil
}

// PutBlob makes contents durable under their SHA-256, once.
func (d Dir) PutBlob(data []byte) error {
	digest := pins.Digest(sha256.Sum256(data))
	if _, err := os.Stat(d.path(blobPath(digest))); err == nil {
		return nil
	}
	if err := d.write(blobPath(digest), data); err != nil {
		return fmt.Errorf("writing contents %s: %w", digest, err)
	}
	return nil
}

// Blob reads contents and verifies their digest.
func (d Dir) Blob(digest pins.Digest) ([]byte, error) {
	data, err := os.ReadFile(d.path(blobPath(digest)))
	if err != nil {
		return nil, fmt.Errorf("reading contents %s: %w", digest, err)
	}
	if got := pins.Digest(sha256.Sum256(data)); got != digest {
		return nil, fmt.Errorf("reading contents %s: SHA-256 is %s: the contents were changed", digest, got)
	}
	return data, nil
}

func blobPath(d pins.Digest) string {
	name := d.String()
	return strings.Join([]string{blobs, name[:2], name}, "/")
}
