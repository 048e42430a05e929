package initramfs

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/rootvouch/rootvouch/internal/durable"
)

// cached is the number of compressed archives that a cache keeps.
const cached = 4

// compressCached is compress with a cache directory; "" means no cache. It
// decompresses a cached file and compares the result with the archive. So the cache
// saves time, and cannot change the output.
func compressCached(dir string, archive []byte) ([]byte, error) {
	if dir == "" {
		return compress(archive)
	}
	path := filepath.Join(dir, fmt.Sprintf("base-%x.img", sha256.Sum256(archive)))
	if base, err := os.ReadFile(path); err == nil && holds(base, archive) {
		return base, nil
	}
	base, err := compress(archive)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	if err := durable.WriteFile(path, base, 0o644); err != nil {
		return nil, fmt.Errorf("keeping the base: %w", err)
	}
	return base, prune(dir)
}

func holds(base, archive []byte) bool {
	p, err := split(base)
	if err != nil || len(p.config) != 0 {
		return false
	}
	got, _, err := p.readBase()
	return err == nil && bytes.Equal(got, archive)
}

// prune removes the oldest bases of a cache.
func prune(dir string) error {
	paths, err := filepath.Glob(filepath.Join(dir, "base-*.img"))
	if err != nil {
		return err
	}
	age := func(path string) int64 {
		info, err := os.Stat(path)
		if err != nil {
			return 0
		}
		return info.ModTime().UnixNano()
	}
	slices.SortFunc(paths, func(a, b string) int { return cmp.Compare(age(b), age(a)) })
	for _, path := range paths[min(cached, len(paths)):] {
		if err := os.Remove(path); err != nil {
			return err
		}
	}
	return nil
}
