package dm

import (
	"errors"
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
)

// WithLogonKey puts key into a keyring of the calling thread alone for as long
// as use runs, as a key of type "logon" (security/keys in the kernel's
// documentation), which user space cannot read. A dm-crypt table that names the
// description takes the key from there, so that no table line ever shows it.
//
// The key is out of the keyring when WithLogonKey returns; dm-crypt keeps its
// own copy in kernel memory. The caller wipes key.
func WithLogonKey(description string, key []byte, use func() error) (err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	id, err := unix.AddKey("logon", description, key, unix.KEY_SPEC_THREAD_KEYRING)
	if err != nil {
		return fmt.Errorf("adding key %q to keyring: %w", description, err)
	}
	defer func() {
		if _, invalidateErr := unix.KeyctlInt(unix.KEYCTL_INVALIDATE, id, 0, 0, 0); invalidateErr != nil {
			err = errors.Join(err, fmt.Errorf("invalidating key %q: %w", description, invalidateErr))
		}
	}()
	return use()
}
