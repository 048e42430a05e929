package boot

import (
	"context"
	"fmt"
	"time"

	"github.com/rootvouch/rootvouch/boot/agent"
	"github.com/rootvouch/rootvouch/boot/bootconfig"
	"github.com/rootvouch/rootvouch/boot/disk"
	"github.com/rootvouch/rootvouch/boot/process"
	"github.com/rootvouch/rootvouch/boot/volumes"
	"github.com/rootvouch/rootvouch/kms/keyapi"
	"github.com/rootvouch/rootvouch/volume"
)

// Rates in bytes of data per second, below which PID 1 gives up. Each 4096 bytes of
// data have a tag of 32 bytes. PID 1 reads the tags to compare a volume, and makes
// them to format one.
const (
	slowestTags   = 64 << 20
	slowestFormat = 1 << 20 // an emulated processor on a busy machine reaches 4 MiB per second
)

// openLimit returns the bound on the time to open a volume.
func openLimit(f *volumes.Found) time.Duration {
	rate := uint64(slowestTags)
	if f.Released.Volume.Found == keyapi.FoundNew {
		rate = slowestFormat
	}
	return localLimit + time.Duration(f.Layout.DataSize/rate)*time.Second
}

// openVolumes runs the steps that open the volumes, one after the other, below the
// new root. It asks for no key before the root is verified, because a volume counts
// as open from the key server's answer on.
func openVolumes(r *runner, limits Limits, processes *process.Table, config bootconfig.Config, spire *agent.Agent) []*volumes.Opened {
	var all []*volumes.Opened
	disks := disk.NewFinder(volume.Offset)
	for i, c := range config.Volumes {
		last := i == len(config.Volumes)-1
		found := step(r, "volume-key", 2*limits.Disk+limits.Key, (*volumes.Found).String, func(ctx context.Context) (*volumes.Found, error) {
			return findVolume(ctx, limits, disks, c, spire, last)
		})
		all = append(all, step(r, "volume", openLimit(found), (*volumes.Opened).String, func(ctx context.Context) (*volumes.Opened, error) {
			return found.Open(ctx, processes, newRoot, volumeProgress(&r.console))
		}))
	}
	return all
}

// findVolume waits for the disk of a volume and asks for the volume's key. After
// the last volume it ends the agent.
func findVolume(ctx context.Context, limits Limits, disks *disk.Finder, c bootconfig.Volume, spire *agent.Agent, last bool) (*volumes.Found, error) {
	claim, cancel := context.WithTimeout(ctx, limits.Disk)
	defer cancel()
	if err := disks.Claimed(claim, c.UUID); err != nil {
		return nil, err
	}
	release, err := spire.FetchVolume(ctx, c.UUID)
	if err != nil {
		return nil, err
	}
	if last {
		if err := spire.End(ctx); err != nil {
			release.Wipe()
			return nil, err
		}
	}
	there, cancel := context.WithTimeout(ctx, limits.Disk)
	defer cancel()
	return volumes.Find(there, disks, c, release)
}

// dataOf returns the size of the data, in MiB, that has this many bytes of tags.
func dataOf(tags uint64) uint64 { return tags / volume.TagSize * volume.SectorSize >> 20 }

// volumeProgress returns a function that prints a line every progressEvery.
func volumeProgress(c *console) volumes.Progress {
	now := nowAndThen()
	return func(what string, done, size uint64) {
		if now() {
			c.progress("volume", fmt.Sprintf("%s, tags of %d of %d MiB", what, dataOf(done), dataOf(size)))
		}
	}
}
