package boot

import (
	"slices"
	"strings"
	"testing"
)

func TestCheckFilesystems(t *testing.T) {
	known := []string{"nodev", "tmpfs", "nodev", "overlay", "erofs"}
	if err := checkFilesystems(known, []string{"erofs", "overlay", "tmpfs"}); err != nil {
		t.Error(err)
	}
	for _, name := range []string{"squashfs", "configfs"} {
		if err := checkFilesystems(known, []string{"erofs", name}); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("got error %v, want one with %q", err, name)
		}
	}
}

func TestParseModules(t *testing.T) {
	got, err := parseModules("/lib/modules/a.ko\n/lib/modules/b-c.ko\n")
	if want := []string{"/lib/modules/a.ko", "/lib/modules/b-c.ko"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
	for _, list := range []string{
		"a.ko\n", "/lib/modules/../../etc/x.ko\n", "/lib/modules//a.ko\n", "/lib/modules/a.ko \n",
		"\n", "/lib/modules/a\n", "/lib/modulesx/a.ko\n", "/lib/modules/a.ko\r\n",
	} {
		if got, err := parseModules(list); err == nil {
			t.Errorf("%q: got %q, want an error", list, got)
		}
	}
}
