package explain

import (
	"cmp"
	"context"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/rootvouch/rootvouch/snp/launch"
)

// firmware is a measured firmware with values that are computed from it, each once.
type firmware struct {
	base     *launch.Base
	metadata map[launch.VMM]func() (*launch.Metadata, error)
	mu       sync.Mutex
	vmsas    map[launch.VCPU]func() (*launch.VMSAs, error) // guarded by mu
}

func newFirmware(base *launch.Base) *firmware {
	f := &firmware{base: base, metadata: map[launch.VMM]func() (*launch.Metadata, error){}, vmsas: map[launch.VCPU]func() (*launch.VMSAs, error){}}
	for _, vmm := range []launch.VMM{launch.QEMU, launch.EC2, launch.GCE} {
		f.metadata[vmm] = sync.OnceValues(func() (*launch.Metadata, error) { return base.Metadata(vmm) })
	}
	return f
}

// vmsasOf returns the VMSAs of v, and keeps them for the next candidate.
func (f *firmware) vmsasOf(v launch.VCPU) (*launch.VMSAs, error) {
	f.mu.Lock()
	once, ok := f.vmsas[v]
	if !ok {
		once = sync.OnceValues(func() (*launch.VMSAs, error) { return f.base.VMSAs(v) })
		f.vmsas[v] = once
	}
	f.mu.Unlock()
	return once()
}

// kernel is one way to fill the kernel-hashes page of one firmware.
type kernel struct {
	firmware *firmware
	changes  []Change
	prefixes map[launch.VMM]func() (launch.Prefix, error)
}

func newKernel(f *firmware, hashes *launch.Hashes, changes []Change) *kernel {
	k := &kernel{firmware: f, changes: changes, prefixes: map[launch.VMM]func() (launch.Prefix, error){}}
	for vmm, metadata := range f.metadata {
		k.prefixes[vmm] = sync.OnceValues(func() (launch.Prefix, error) {
			m, err := metadata()
			if err != nil {
				return launch.Prefix{}, err
			}
			return m.Prefix(hashes)
		})
	}
	return k
}

// task is a series of candidates that differ in their vCPU count, or one candidate.
type task struct {
	kernel  *kernel
	vcpu    launch.VCPU
	changes []Change
	// swept means that the VMSAs are needed only once, and that changes does not
	// say how vcpu differs from the given one.
	swept bool
}

// search first tries the candidates with names. If none explains the digest, it
// sweeps.
func (n *neighbourhood) search(ctx context.Context) (Answer, error) {
	kernels := n.allKernels()
	explanations, tried, err := n.tryAll(ctx, n.tasks(kernels))
	if err != nil {
		return Answer{}, err
	}
	if len(explanations) == 0 {
		more := 0
		if explanations, more, err = n.tryAll(ctx, n.sweep(kernels[0])); err != nil {
			return Answer{}, err
		}
		tried += more
	}
	slices.SortStableFunc(explanations, func(a, b []Change) int { return cmp.Compare(len(a), len(b)) })
	for i, e := range explanations {
		if len(e) > len(explanations[0]) {
			explanations = explanations[:i]
			break
		}
	}
	return Answer{Explanations: explanations, Tried: tried, Unusable: n.unusable}, nil
}

// tryAll spreads the tasks over all cores.
func (n *neighbourhood) tryAll(ctx context.Context, tasks []task) ([][]Change, int, error) {
	found := make([][][]Change, len(tasks)) // :: task -> explanations
	var next, tried atomic.Int64
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for ctx.Err() == nil {
				i := int(next.Add(1)) - 1
				if i >= len(tasks) {
					return
				}
				var count int
				found[i], count = n.try(tasks[i])
				tried.Add(int64(count))
			}
		})
	}
	wg.Wait()
	if err := ctx.Err(); err != nil {
		return nil, 0, fmt.Errorf("explaining launch digest: %w", err)
	}
	return slices.Concat(found...), int(tried.Load()), nil
}

// try compares the digests of one task. It does not count a combination that no
// launch can have, such as kernel hashes with a firmware that cannot check them.
func (n *neighbourhood) try(t task) (found [][]Change, tried int) {
	prefix, err := t.kernel.prefixes[t.vcpu.VMM]()
	if err != nil {
		return nil, 0
	}
	vmsasOf := t.kernel.firmware.vmsasOf
	if t.swept {
		vmsasOf = t.kernel.firmware.base.VMSAs
	}
	vmsas, err := vmsasOf(t.vcpu)
	if err != nil {
		return nil, 0
	}
	given := max(n.question.Inputs.VCPUs, 1)
	last, free := given, false
	switch {
	case n.question.Inputs.Mode == launch.SEV:
	case t.swept:
		last, free = max(sweptVCPUs, given), true
	case len(t.changes) < maxChanges:
		last, free = max(MaxVCPUs, given), true
	}
	digests, err := prefix.Digests(vmsas, last)
	if err != nil && free { // a firmware that can start one vCPU only
		digests, err = prefix.Digests(vmsas, given)
	}
	if err != nil {
		return nil, 0
	}
	for vcpus, sum := range digests {
		if vcpus != given && !free {
			continue
		}
		tried++
		if sum != n.question.Got {
			continue
		}
		changes := t.changes
		if t.swept {
			changes = append(slices.Clone(changes), n.sweptChange(t.vcpu))
		}
		if vcpus != given {
			changes = append(slices.Clone(changes), Change{"vCPUs", fmt.Sprint(vcpus), fmt.Sprint(given)})
		}
		found = append(found, changes)
	}
	return found, tried
}

// allKernels combines firmware, kernel, initramfs and command line. The first
// combination is the given one.
func (n *neighbourhood) allKernels() []*kernel {
	var all []*kernel
	for f, firmware := range n.firmware {
		for k, kernel := range n.kernels {
			if kernel.value == nil { // then initramfs and command line do not count
				if changes, ok := collect(pick(n.firmware, f, "firmware"), pick(n.kernels, k, "kernel")); ok {
					all = append(all, newKernel(firmware.value, nil, changes))
				}
				continue
			}
			for i, initrd := range n.initrds {
				for c, commandLine := range n.commandLines {
					changes, ok := collect(pick(n.firmware, f, "firmware"), pick(n.kernels, k, "kernel"),
						pick(n.initrds, i, "initramfs"), pick(n.commandLines, c, "command line"))
					if !ok {
						continue
					}
					hashes := &launch.Hashes{Kernel: *kernel.value, Initrd: initrd.value, CommandLine: commandLine.value}
					all = append(all, newKernel(firmware.value, hashes, changes))
				}
			}
		}
	}
	return all
}

// tasks combines the kernels with launcher, guest features and CPU type.
func (n *neighbourhood) tasks(kernels []*kernel) []task {
	var all []task
	for _, k := range kernels {
		for l, launcher := range n.launchers {
			for f, features := range n.features {
				for c, cpu := range n.cpus {
					if c > 0 && launcher.value.vmm != launch.QEMU {
						continue // its VMSAs have no CPU signature
					}
					changes, ok := collect(pick(n.launchers, l, "launcher"), pick(n.features, f, "guest features"), pick(n.cpus, c, "CPU type"))
					if !ok || len(k.changes)+len(changes) > maxChanges {
						continue
					}
					vcpu := launch.VCPU{VMM: launcher.value.vmm, VMSA: launcher.value.generation, CPU: cpu.value, Features: features.value}
					all = append(all, task{kernel: k, vcpu: vcpu, changes: slices.Concat(k.changes, changes)})
				}
			}
		}
	}
	return all
}

// sweep returns tasks for every CPUID signature of the families with SEV, and for
// every set of guest features. Each is tried with the vCPU counts up to sweptVCPUs
// and the given one. All other inputs are as given, because there are too many
// signatures to combine further.
func (n *neighbourhood) sweep(given *kernel) []task {
	in := n.question.Inputs
	var all []task
	if in.VMM == launch.QEMU && in.Mode != launch.SEV {
		for _, family := range []uint32{0x17, 0x19, 0x1a} { // 25481; Zen to Zen 5
			for low := range uint32(1 << 12) {
				v := in.VCPU
				c, err := launch.CPUFromModel(family, low>>4, low&0xf)
				if err != nil || slices.ContainsFunc(n.cpus, func(o option[launch.CPU]) bool { return o.value.Signature == c.Signature }) {
					continue
				}
				v.CPU = c
				all = append(all, task{kernel: given, vcpu: v, swept: true})
			}
		}
	}
	if in.Mode != launch.SNP {
		return all
	}
	bits := launch.FeatureBits() &^ 1
	for f := bits; ; f = (f - 1) & bits { // every subset of bits, the empty one last
		v := in.VCPU
		v.Features = f | 1
		if !slices.ContainsFunc(n.features, func(o option[uint64]) bool { return o.value == v.Features }) {
			all = append(all, task{kernel: given, vcpu: v, swept: true})
		}
		if f == 0 {
			return all
		}
	}
}

// sweptChange returns the difference between v and the given vCPU.
func (n *neighbourhood) sweptChange(v launch.VCPU) Change {
	if v.CPU != n.question.Inputs.CPU {
		return Change{"CPU type", fmt.Sprintf("signature %#x", v.CPU.Signature), n.cpus[0].label}
	}
	return Change{"guest features", launch.DescribeFeatures(v.Features), n.features[0].label}
}

// pick returns option i of an input as a change, or nil for the given option.
func pick[T any](options []option[T], i int, input string) *Change {
	if i == 0 {
		return nil
	}
	return &Change{Input: input, Got: options[i].label, Want: options[0].label}
}

// collect gathers changes; ok is false if they are too many.
func collect(changes ...*Change) (all []Change, ok bool) {
	for _, c := range changes {
		if c != nil {
			all = append(all, *c)
		}
	}
	return all, len(all) <= maxChanges
}
