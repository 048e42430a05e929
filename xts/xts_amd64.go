//go:build amd64 && !purego

package xts

import (
	"encoding/binary"

	"golang.org/x/sys/cpu"
)

// schedule is an expanded AES-256 key (FIPS 197, 5.2): one key for each of 14
// rounds and the one before.
type schedule [15][blockSize]byte

// hardware is AES-256-XTS by the processor's AES instructions.
//
// It runs in constant time: its code has no branch and no address that depends
// on key, data or tweak; AESENC, VAESENC, PCLMULQDQ, shifts and XOR take the same
// time for all operands (Intel, "Data Operand Independent Timing", 2022, lists
// them; AMD has the same instructions in fixed-latency pipes). Only sizes and
// sector numbers, which anybody may know, steer it.
type hardware struct {
	encryption, decryption schedule // of the data key
	tweak                  schedule // of the tweak key

	// The two instruction sets. n is in bytes, a multiple of 512.
	encryptUnit, decryptUnit func(keys *schedule, tweak *[blockSize]byte, dst, src *byte, n int)
	encryptTweaks            func(keys *schedule, tweaks *[tweakBatch][blockSize]byte)
}

// tweakBatch is how many sectors' tweaks are encrypted together.
const tweakBatch = 16

func newImplementation(key []byte) (implementation, error) {
	switch {
	case len(key) != 64:
	case hasVAES():
		return newVAES(key)
	case cpu.X86.HasAES && cpu.X86.HasSSE41:
		return newAESNI(key)
	}
	return newGeneric(key)
}

func hasVAES() bool {
	return cpu.X86.HasAES && cpu.X86.HasAVX512F && cpu.X86.HasAVX512BW && cpu.X86.HasAVX512VAES && cpu.X86.HasAVX512VPCLMULQDQ
}

// implementations lists what this machine can run, for tests and benchmarks.
func implementations() map[string]func(key []byte) (implementation, error) {
	all := map[string]func([]byte) (implementation, error){"generic": newGeneric}
	if cpu.X86.HasAES && cpu.X86.HasSSE41 {
		all["AES-NI"] = newAESNI
	}
	if hasVAES() {
		all["VAES"] = newVAES
	}
	return all
}

func newVAES(key []byte) (implementation, error) {
	h := newSchedules(key)
	h.encryptUnit, h.decryptUnit, h.encryptTweaks = vaesEncrypt, vaesDecrypt, vaesTweaks
	return h, nil
}

func newAESNI(key []byte) (implementation, error) {
	h := newSchedules(key)
	h.encryptUnit, h.decryptUnit, h.encryptTweaks = aesniEncrypt, aesniDecrypt, aesniTweaks
	return h, nil
}

func newSchedules(key []byte) *hardware {
	h := &hardware{}
	expandKey(&key[0], &h.encryption, &h.decryption)
	var unused schedule
	expandKey(&key[32], &h.tweak, &unused)
	clear(unused[:])
	return h
}

func (h *hardware) encrypt(dst, src []byte, sector uint64, sectorSize int) {
	h.run(h.encryptUnit, &h.encryption, dst, src, sector, sectorSize)
}

func (h *hardware) decrypt(dst, src []byte, sector uint64, sectorSize int) {
	h.run(h.decryptUnit, &h.decryption, dst, src, sector, sectorSize)
}

// run does all sectors, a batch of tweaks at a time: one tweak alone would wait
// for the latency of 14 rounds.
func (h *hardware) run(unit func(*schedule, *[blockSize]byte, *byte, *byte, int), keys *schedule, dst, src []byte, sector uint64, sectorSize int) {
	step := uint64(sectorSize / SectorUnit)
	var tweaks [tweakBatch][blockSize]byte
	for len(src) > 0 {
		for i := range tweaks {
			binary.LittleEndian.PutUint64(tweaks[i][:], sector+uint64(i)*step)
			clear(tweaks[i][8:])
		}
		h.encryptTweaks(&h.tweak, &tweaks)
		for i := 0; i < len(tweaks) && len(src) > 0; i++ {
			unit(keys, &tweaks[i], &dst[0], &src[0], sectorSize)
			dst, src = dst[sectorSize:], src[sectorSize:]
		}
		sector += tweakBatch * step
	}
}

func (h *hardware) wipe() { *h = hardware{} }

// expandKey fills the schedules of a 32-byte key.
//
//go:noescape
func expandKey(key *byte, encryption, decryption *schedule)

//go:noescape
func aesniEncrypt(keys *schedule, tweak *[blockSize]byte, dst, src *byte, n int)

//go:noescape
func aesniDecrypt(keys *schedule, tweak *[blockSize]byte, dst, src *byte, n int)

//go:noescape
func aesniTweaks(keys *schedule, tweaks *[tweakBatch][blockSize]byte)

//go:noescape
func vaesEncrypt(keys *schedule, tweak *[blockSize]byte, dst, src *byte, n int)

//go:noescape
func vaesDecrypt(keys *schedule, tweak *[blockSize]byte, dst, src *byte, n int)

//go:noescape
func vaesTweaks(keys *schedule, tweaks *[tweakBatch][blockSize]byte)
