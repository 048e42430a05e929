package cli

import (
	"fmt"
	"os/user"
	"strconv"
	"strings"
)

// Variables that stand for --kms-socket and --kms-user if these are not given.
const (
	KMSSocketVariable = "ROOTVOUCH_KMS_SOCKET"
	KMSUserVariable   = "ROOTVOUCH_KMS_USER"
)

// KMSUser is the flag --kms-user: the user ID that the key server may have besides root's and
// the caller's own.
type KMSUser []uint32

// KMSUserUsage is the flag's help.
const KMSUserUsage = "user that rootvouch-kms runs as (a name or a number; default: root, or the user that runs this command)"

// Type names the flag's value in the help.
func (u *KMSUser) Type() string { return "user" }

func (u *KMSUser) String() string { return strings.Trim(fmt.Sprint(*u), "[]") }

// Set takes the name or the number of a user.
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
