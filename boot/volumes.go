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

// Rates, in bytes of data per second, below which PID 1 gives up. There is a tag of 32 bytes
// for 4096 of them, which is read to compare a volume, and made to format one.
const (
	slowestTags   = 64 << 20
	slowestFormat = 1 << 20 // an emulated processor on a busy machine makes 4 of them
)

// openLimit is how long a volume may take to be opened.
func openLimit(f *volumes.Found) time.Duration {
	rate := uint64(slowestTags)
	if f.Released.Volume.Found == keyapi.FoundNew {
		rate = slowestFormat
	}
	return localLimit + time.Duration(f.Layout.DataSize/rate)*time.Second
}

// openVolumes runs the steps that open the volumes, one after the other, in the root that
// is put together. None is asked for before the root is verified: from the key server's
// answer on a volume counts as open.
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

// findVolume asks for the key of a volume whose disk is there. After the last one nobody
// needs the agent.
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

// dataOf is how much data, in MiB, so many bytes of tags stand for.
func dataOf(tags uint64) uint64 { return tags / volume.TagSize * volume.SectorSize >> 20 }

// volumeProgress returns a function that prints a line now and then.
func volumeProgress(c *console) volumes.Progress {
	now := nowAndThen()
	return func(what string, done, size uint64) {
		if now() {
			c.progress("volume", fmt.Sprintf("%s, tags of %d of %d MiB", what, dataOf(done), dataOf(size)))
		}
	}
}
