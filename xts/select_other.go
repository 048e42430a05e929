package xts

func newImplementation(key []byte) (implementation, error) { return newGeneric(key) }
