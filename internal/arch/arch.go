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
	// uses lists what of this module they may import directly, besides each
	// other where within is set.
	uses   []string
	within bool
	// never lists import paths ("x/..." for x and all below) that they must not
	// reach, directly or through our own and third-party packages. What the
	// standard library itself imports does not count.
	never []string
	// neverDirect lists import paths that they must not import themselves.
	neverDirect []string
	// pure packages take clock and randomness as arguments: no time.Now or the like.
	pure bool
}

// outside is what a format must not touch: files, sockets, randomness.
var outside = []string{"os/...", "net", "net/http/...", "math/rand/...", "crypto/rand", "syscall", "golang.org/x/sys/unix"}

// network is what PID 1 must not link.
var network = []string{"net/http", "net/http/...", "crypto/tls", "google.golang.org/grpc/...", "google.golang.org/protobuf/...",
	"github.com/spiffe/...", "github.com/google/go-sev-guest/..."}

// keyServer is what only the key server links; its messages (kms/keyapi) and its
// caller in the guest (kms/fetchkey) stand beside it.
var keyServer = []string{module + "/kms/acl", module + "/kms/admin", module + "/kms/adminapi", module + "/kms/audit",
	module + "/kms/health", module + "/kms/history", module + "/kms/kek", module + "/kms/kek/provider", module + "/kms/kv", module + "/kms/kv/boltkv", module + "/kms/kv/etcdkv", module + "/kms/kv/kvtest", module + "/kms/ledger",
	module + "/kms/members", module + "/kms/publish", module + "/kms/replay", module + "/kms/restore", module + "/kms/server", module + "/kms/store",
	module + "/kms/tlogdir", module + "/kms/witness"}

// ownerNever is what the owner's tool must not link: what is the guest's alone, and
// gRPC, which is rootvouch-spire's.
var ownerNever = []string{module + "/boot", module + "/dm", "google.golang.org/grpc/..."}

// ground is what any package may use.
var ground = []string{"pins", "internal/strictjson", "internal/emulated"}
