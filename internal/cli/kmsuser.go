package cli

import (
	"fmt"
	"os/user"
	"strconv"
	"strings"
)

// Variables that stand for --kms-socket and --kms-user where these are not given.
const (
	KMSSocketVariable = "ROOTVOUCH_KMS_SOCKET"
	KMSUserVariable   = "ROOTVOUCH_KMS_USER"
)

// KMSUser is the flag --kms-user: the user ID that a key server has besides root's
// or the caller's own, if one was given.
type KMSUser []uint32

// KMSUserUsage is the flag's help.
const KMSUserUsage = "user that rootvouch-kms runs as (a name or a number; default: root, or who runs this)"

// Type is what the help says that the flag takes.
func (u *KMSUser) Type() string { return "user" }

func (u *KMSUser) String() string { return strings.Trim(fmt.Sprint(*u), "[]") }

// Set takes the name of a user, or a number.
func (u *KMSUser) Set(name string) error {
	uid, err := strconv.ParseUint(name, 10, 32)
	if err != nil {
		found, err := user.Lookup(name)
		if err != nil {
			return err
		}
		if uid, err = strconv.ParseUint(found.Uid, 10, 32); err != nil {
			return err
		}
	}
	*u = KMSUser{uint32(uid)}
	return nil
}
