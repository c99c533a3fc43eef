//go:build linux && !client

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestFreeIDs(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	uids, gids := file("uids", "a:100000:65536\nb:165536:65536\n"), file("gids", "a:100000:65536\n# none\nc:300000:65536\nbroken:x\n")
	for _, c := range []struct {
		name  string
		files []string
		want  int
	}{
		{"no file", []string{filepath.Join(dir, "none")}, 100000},
		{"one", []string{uids}, 231072},
		{"both", []string{uids, gids}, 365536},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := freeIDs(c.files...); got != c.want {
				t.Errorf("got %d, want %d", got, c.want)
			}
		})
	}
}

// TestProfileRefusals: what profile engine cannot hold is refused with the reason.
func TestProfileRefusals(t *testing.T) {
	for _, c := range []struct {
		name  string
		flags runFlags
		want  string
	}{
		{"engine", runFlags{profile: "engine", door: "netstack", link: "auto", fs: "private"}, ""},
		{"tool", runFlags{profile: "tool", door: "tproxy", link: "veth", fs: "host"}, ""},
		{"tproxy", runFlags{profile: "engine", door: "tproxy", link: "auto", fs: "private"}, "root inside could change the rules"},
		{"both doors", runFlags{profile: "engine", door: "both", link: "auto", fs: "private"}, "root inside could change the rules"},
		{"veth", runFlags{profile: "engine", door: "netstack", link: "veth", fs: "private"}, "root inside could reach the other end"},
		{"host files", runFlags{profile: "engine", door: "netstack", link: "tap", fs: "host"}, "root inside could undo"},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := (&plan{runFlags: c.flags}).checkProfile()
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}
