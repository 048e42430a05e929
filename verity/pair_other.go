//go:build !amd64 || purego

package verity

// pair would compute two digests at once; here is no code for that.
type pair struct{}

func newPair(Params) *pair { return nil }

func (*pair) sum(da, db, a, b []byte) { panic("verity: internal error: no pairs on this machine") }
