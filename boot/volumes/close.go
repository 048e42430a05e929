package volumes

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/rootvouch/rootvouch/boot/wait"
	"github.com/rootvouch/rootvouch/dm"
	"github.com/rootvouch/rootvouch/kms/keyapi"
	"github.com/rootvouch/rootvouch/volume"
	"golang.org/x/sys/unix"
)

// Close unmounts the volume, removes its devices, and returns the commit of the
// contents that the volume has now. The caller has ended every process that could
// use the volume.
func (o *Opened) Close(ctx context.Context, progress Progress) (keyapi.CommitRequest, error) {
	control, err := dm.Open()
	if err != nil {
		return keyapi.CommitRequest{}, err
	}
	defer control.Close()
	// systemd may have removed some of the devices.
	data, err := control.Find(dataName(o.UUID))
	if err == nil {
		if err := unmount(ctx, data); err != nil {
			return keyapi.CommitRequest{}, err
		}
	} else if !errors.Is(err, unix.ENXIO) {
		return keyapi.CommitRequest{}, err
	}
	for _, name := range []string{dataName(o.UUID), tagsName(o.UUID)} {
		if err := remove(ctx, control, name); err != nil {
			return keyapi.CommitRequest{}, err
		}
	}
	layout, err := volume.LayoutOf(o.Size)
	if err != nil {
		return keyapi.CommitRequest{}, err
	}
	d, err := openDevice(o.Disk, o.Number, os.O_RDONLY)
	if err != nil {
		return keyapi.CommitRequest{}, err
	}
	digest, err := volume.Digest(ctx, d, layout, func(done, size uint64) { progress("reading", done, size) })
	if err := errors.Join(err, d.close()); err != nil {
		return keyapi.CommitRequest{}, err
	}
	return keyapi.NewCommit(o.CommitKey, o.UUID, o.Holder, o.Generation+1, digest), nil
}

// remove removes a device, unless it is gone.
func remove(ctx context.Context, control *dm.Control, name string) error {
	for {
		device, err := control.Find(name)
		if errors.Is(err, unix.ENXIO) {
			return nil
		}
		if err != nil {
			return err
		}
		err = device.Remove()
		if err == nil {
			return nil
		}
		if !errors.Is(err, unix.EBUSY) || wait.Pause(ctx) != nil {
			return err
		}
	}
}

// unmount removes all mounts of a device, the last one first.
func unmount(ctx context.Context, device *dm.Device) error {
	for {
		text, err := os.ReadFile("/proc/self/mountinfo")
		if err != nil {
			return fmt.Errorf("reading mounts: %w", err)
		}
		points := mountsOf(string(text), device.Number(), device.Path())
		if len(points) == 0 {
			return nil
		}
		for _, point := range slices.Backward(points) {
			err = errors.Join(err, unix.Unmount(point, unix.UMOUNT_NOFOLLOW))
		}
		if err != nil && wait.Pause(ctx) != nil {
			return fmt.Errorf("unmounting %s: %w", points[0], err)
		}
	}
}

// mountsOf returns the mount points of a device (proc_pid_mountinfo(5)). For btrfs
// mountinfo has another device number, and the device's path as the source.
func mountsOf(mountinfo, number, path string) []string {
	var points []string
	for line := range strings.Lines(mountinfo) {
		before, after, ok := strings.Cut(line, " - ")
		fields, source := strings.Fields(before), strings.Fields(after)
		if !ok || len(fields) < 5 || len(source) < 2 {
			continue
		}
		if fields[2] == number || source[1] == path {
			points = append(points, unescape(fields[4]))
		}
	}
	return points
}

// unescape decodes a path in which the kernel writes blanks as \ooo.
func unescape(s string) string {
	var out strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+4 <= len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				out.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		out.WriteByte(s[i])
	}
	return out.String()
}
