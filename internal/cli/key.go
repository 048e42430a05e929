package cli

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/term"

	"github.com/rootvouch/rootvouch/internal/command"
	"github.com/rootvouch/rootvouch/kms/keyapi"
)

// KeyPipe returns out for writing a key that must not be in a file. out must be a pipe or a
// socket. The error names flag. If the reader of the pipe has gone, the write fails, and the
// process goes on.
func KeyPipe(flag string, out io.Writer) (io.Writer, error) {
	if f, ok := out.(*os.File); ok {
		info, err := f.Stat()
		switch {
		case term.IsTerminal(int(f.Fd())):
			return nil, command.Usage(fmt.Errorf("%s is for a pipe: a terminal would show the key", flag))
		case err != nil:
			return nil, err
		case info.Mode()&(fs.ModeNamedPipe|fs.ModeSocket) == 0:
			return nil, command.Usage(fmt.Errorf("%s is for a pipe: standard output is %v, which would hold the key or lose it", flag, info.Mode()))
		}
	}
	signal.Ignore(syscall.SIGPIPE)
	return out, nil
}

// ReadKey reads a key of exactly keyapi.KeySize bytes. The caller wipes it.
func ReadKey(path string, stdin io.Reader) ([]byte, error) {
	in := stdin
	if path != "-" {
		file, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer file.Close()
		in = file
	}
	key := make([]byte, keyapi.KeySize+1)
	n, err := io.ReadFull(in, key)
	if n != keyapi.KeySize || !errors.Is(err, io.ErrUnexpectedEOF) {
		clear(key)
		return nil, fmt.Errorf("key file %s does not have exactly %d bytes", path, keyapi.KeySize)
	}
	return key[:keyapi.KeySize], nil
}
