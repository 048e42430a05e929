// Package arch holds the import table of this module as data, and the test that
// enforces it. A change of the table needs a record in docs/adr.
package arch

// module is the import path of this module.
const module = "github.com/rootvouch/rootvouch"

// A room is a set of packages with one rule.
type room struct {
	name string
	// packages are directories of this module; "x/..." is x and all below it.
	packages []string
	// uses lists packages of this module that they may import directly. With within set they
	// may also import each other.
	uses   []string
	within bool
	// never lists import paths ("x/..." for x and all below) that they must not reach, directly
	// or through our own and third-party packages. Imports inside the standard library do not
	// count.
	never []string
	// neverDirect lists import paths that they must not import themselves.
	neverDirect []string
	// pure packages take clock and randomness as arguments: they must not call time.Now or the
	// like.
	pure bool
}

// outside lists what a format must not use: files, sockets, randomness.
var outside = []string{"os/...", "net", "net/http/...", "math/rand/...", "crypto/rand", "syscall", "golang.org/x/sys/unix"}

// network lists what PID 1 must not link.
var network = []string{"net/http", "net/http/...", "crypto/tls", "google.golang.org/grpc/...", "google.golang.org/protobuf/...",
	"github.com/spiffe/...", "github.com/google/go-sev-guest/..."}

// keyServer lists what only the key server may link. Its messages (kms/keyapi) and its client
// in the guest (kms/fetchkey) are not on the list.
var keyServer = []string{module + "/kms/acl", module + "/kms/admin", module + "/kms/adminapi", module + "/kms/audit",
	module + "/kms/health", module + "/kms/history", module + "/kms/kek", module + "/kms/kek/provider", module + "/kms/kv", module + "/kms/kv/boltkv", module + "/kms/kv/etcdkv", module + "/kms/kv/kvtest", module + "/kms/ledger",
	module + "/kms/members", module + "/kms/publish", module + "/kms/replay", module + "/kms/restore", module + "/kms/server", module + "/kms/store",
	module + "/kms/tlogdir", module + "/kms/witness"}

// ownerNever lists what the owner's tool must not link: packages of the guest alone, and gRPC,
// which only rootvouch-spire links.
var ownerNever = []string{module + "/boot", module + "/dm", "google.golang.org/grpc/..."}

// ground lists what any package may use.
var ground = []string{"pins", "internal/strictjson", "internal/emulated"}
