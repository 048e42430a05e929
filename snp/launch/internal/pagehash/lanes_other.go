//go:build !amd64 || purego

package pagehash

import "crypto/sha512"

var hasLanes = false

func sum8(*[8]*[sha512.Size384]byte, *[8]*[PageSize]byte) {
	panic("pagehash: internal error: no lanes")
}
