//go:build linux

package gauntlet

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Break takes one stone out of weir's source. The rows it names must then be red; were they green, they would prove nothing.
type Break struct {
	Group string
	// File is the source, from the module's root. Old occurs in it once and becomes New.
	File, Old, New string
	// Rows are the IDs that have to turn red.
	Rows []string
}

// Breaks returns at least one for each group.
func Breaks() []Break {
	return []Break{
		{"escape", "sandbox/syscalls.go", "func filterSyscalls() error {", "func filterSyscalls() error {\n\tif true {\n\t\treturn nil\n\t}", []string{"escape/io-uring"}},
	}
}

// Build compiles the broken weir to path; root is the module's directory.
func (b Break) Build(root, path string) error {
	source := filepath.Join(root, b.File)
	text, err := os.ReadFile(source)
	if err != nil {
		return fmt.Errorf("break %s: %w", b.Group, err)
	}
	if n := strings.Count(string(text), b.Old); n != 1 {
		return fmt.Errorf("break %s: %q is %d times in %s", b.Group, b.Old, n, b.File)
	}
	broken := path + ".go"
	if err := os.WriteFile(broken, []byte(strings.Replace(string(text), b.Old, b.New, 1)), 0o644); err != nil {
		return fmt.Errorf("break %s: %w", b.Group, err)
	}
	overlay, err := json.Marshal(map[string]map[string]string{"Replace": {source: broken}})
	if err != nil {
		return fmt.Errorf("break %s: %w", b.Group, err)
	}
	if err := os.WriteFile(path+".json", overlay, 0o644); err != nil {
		return fmt.Errorf("break %s: %w", b.Group, err)
	}
	build := exec.Command("go", "build", "-overlay", path+".json", "-o", path, "./cmd/weir")
	build.Dir, build.Env = root, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("break %s: %w: %s", b.Group, err, out)
	}
	return nil
}
