package keys

import (
	"strings"
	"testing"

	"github.com/rootvouch/rootvouch/internal/command"
)

// TestMissing: one error names all that is missing, and the environment stands for flags.
func TestMissing(t *testing.T) {
	dir := t.TempDir()
	socket, _ := startAdmin(t, dir)
	for _, c := range []struct {
		name      string
		args      []string
		variables map[string]string
		status    int
		want      string
	}{
		{"put", []string{"put"}, nil, 64, `required flag(s) "key", "kms-socket", "pins", "refval", "spiffe-id" not set`},
		{"put of a made key", []string{"put", "--made-key", "x", "--evidence", "not-required"}, nil, 64, `required flag(s) "kms-socket", "pins", "spiffe-id" not set`},
		{"status", []string{"status"}, nil, 64, `required flag(s) "kms-socket" not set`},
		{"status by the environment", []string{"status", "--json"}, map[string]string{"ROOTVOUCH_KMS_SOCKET": socket}, 0, `"spiffe_id": "spiffe://example.org/kms"`},
		{"the flag comes first", []string{"status", "--kms-socket", socket}, map[string]string{"ROOTVOUCH_KMS_SOCKET": "/nonexistent"}, 0, "spiffe://example.org/kms"},
		{"nobody's server", []string{"status"}, map[string]string{"ROOTVOUCH_KMS_SOCKET": socket, "ROOTVOUCH_KMS_USER": "no-such-user"}, 64, "$ROOTVOUCH_KMS_USER"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Setenv("ROOTVOUCH_KMS_SOCKET", "") // whatever it is for who runs the test
			t.Setenv("ROOTVOUCH_KMS_USER", "")
			for name, value := range c.variables {
				t.Setenv(name, value)
			}
			var out strings.Builder
			if status := command.Main(New(), c.args, &out, &out); status != c.status || !strings.Contains(out.String(), c.want) {
				t.Errorf("got status %d and %s, want %d and %q", status, out.String(), c.status, c.want)
			}
		})
	}
}
