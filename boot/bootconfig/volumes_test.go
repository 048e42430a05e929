package bootconfig

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/rootvouch/rootvouch/pins"
)

func withVolumes() Config {
	c := sample()
	c.Volumes = []Volume{{pins.UUID{7}, "/var/lib/app", Ext4}, {pins.UUID{8}, "/var/lib/app/log", XFS}, {pins.UUID{9}, "/srv", Btrfs}}
	return c
}

func TestVolumesRoundTrip(t *testing.T) {
	want := withVolumes()
	got, err := Decode(mustEncode(t, want))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want.Volumes, got.Volumes); diff != "" {
		t.Error(diff)
	}
	if strings.Contains(string(mustEncode(t, sample())), "volumes") {
		t.Error("a configuration without volumes has the member")
	}
}

func TestVolumesRefused(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*Config)
		want   string
	}{
		{"no UUID", func(c *Config) { c.Volumes[0].UUID = pins.UUID{} }, "uuid is all zero"},
		{"twice", func(c *Config) { c.Volumes[1].UUID = c.Volumes[0].UUID }, "occurs twice"},
		{"the root's", func(c *Config) { c.Volumes[0].UUID = c.Disk.Header.DiskUUID }, "is the root disk's"},
		{"filesystem", func(c *Config) { c.Volumes[0].Filesystem = "vfat" }, `filesystem is "vfat"`},
		{"no filesystem", func(c *Config) { c.Volumes[0].Filesystem = "" }, `filesystem is ""`},
		{"relative", func(c *Config) { c.Volumes[0].MountPoint = "data" }, "mount_point"},
		{"root", func(c *Config) { c.Volumes[0].MountPoint = "/" }, "mount_point"},
		{"unclean", func(c *Config) { c.Volumes[0].MountPoint = "/a/../b" }, "mount_point"},
		{"slash at the end", func(c *Config) { c.Volumes[0].MountPoint = "/data/" }, "mount_point"},
		{"space", func(c *Config) { c.Volumes[0].MountPoint = "/my data" }, "mount_point"},
		{"line break", func(c *Config) { c.Volumes[0].MountPoint = "/data\nx" }, "mount_point"},
		{"long", func(c *Config) { c.Volumes[0].MountPoint = "/" + strings.Repeat("a", 255) }, "mount_point"},
		{"kernel's", func(c *Config) { c.Volumes[0].MountPoint = "/proc/data" }, "outside of /proc"},
		{"PID 1's", func(c *Config) { c.Volumes[0].MountPoint = "/run" }, "outside of /proc"},
		{"settings", func(c *Config) { c.Volumes[0].MountPoint = "/etc/app" }, "outside of /proc"},
		{"same mount point", func(c *Config) { c.Volumes[2].MountPoint = "/var/lib/app" }, "is at or above"},
		{"above an earlier one", func(c *Config) { c.Volumes[2].MountPoint = "/var" }, "is at or above"},
		{"empty list", func(c *Config) { c.Volumes = []Volume{} }, "list is empty"},
		{"too many", func(c *Config) { c.Volumes = make([]Volume, MaxVolumes+1) }, "got 9 volumes"},
	} {
		t.Run(c.name, func(t *testing.T) {
			config := withVolumes()
			c.change(&config)
			if err := config.Check(); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got error %v, want one with %q", err, c.want)
			}
		})
	}
}

// TestCheckSize checks the mkfs programs' own bounds. Otherwise a first boot would
// get the key and then fail.
func TestCheckSize(t *testing.T) {
	for _, c := range []struct {
		filesystem VolumeFilesystem
		least      uint64
	}{{Ext4, 0}, {XFS, 300 << 20}, {Btrfs, 109 << 20}} {
		if err := c.filesystem.CheckSize(c.least); err != nil {
			t.Errorf("%s: %v", c.filesystem, err)
		}
		if c.least == 0 {
			continue
		}
		if err := c.filesystem.CheckSize(c.least - 1); err == nil || !strings.Contains(err.Error(), string(c.filesystem)) {
			t.Errorf("%s: got %v, want a word about its size", c.filesystem, err)
		}
	}
}
