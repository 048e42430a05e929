//go:build !amd64 || purego

package xts

func newImplementation(key []byte) (implementation, error) { return newGeneric(key) }

// implementations lists what this machine can run, for tests and benchmarks.
func implementations() map[string]func(key []byte) (implementation, error) {
	return map[string]func([]byte) (implementation, error){"generic": newGeneric}
}
