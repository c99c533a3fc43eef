//go:build linux

package gauntlet

import (
	"io/fs"
	"path/filepath"
	"strings"
	"testing"
)

// TestSources looks at every folder of the module. The tests here build weir themselves, so the go tool does not know what they
// depend on, and would show the result of yesterday's weir: it remembers what a test has opened.
func TestSources(t *testing.T) {
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && len(d.Name()) > 2 && strings.HasPrefix(d.Name(), ".") {
			return fs.SkipDir
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}
