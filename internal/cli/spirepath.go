package cli

import (
	"fmt"
	"os"
	"path/filepath"
)

// SpireProgram speaks to SPIRE servers for the owner's tool.
const SpireProgram = "rootvouch-spire"

// SpirePath returns the path of that program in the directory of this one, whose links are
// resolved. It does not search PATH.
func SpirePath() (string, error) {
	self, err := os.Executable()
	if err == nil {
		self, err = filepath.EvalSymlinks(self)
	}
	if err != nil {
		return "", fmt.Errorf("looking for %s: %w", SpireProgram, err)
	}
	return filepath.Join(filepath.Dir(self), SpireProgram), nil
}
