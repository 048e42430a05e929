package cli

import (
	"fmt"
	"os"
	"path/filepath"
)

// SpireProgram speaks to SPIRE servers for the owner's tool.
const SpireProgram = "rootvouch-spire"

// SpirePath is that program in the directory where this one is, its links resolved;
// PATH is not looked at.
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
