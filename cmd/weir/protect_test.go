//go:build linux && !client

package main

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/weir-dev/weir/sandbox"
)

// A share may hold the policy or weir's own directories; the program gets neither to write.
func TestProtect(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	in := func(rel string) string { return filepath.Join(dir, rel) }
	for _, d := range []string{"project/conf/weir", "elsewhere", "home/.local/state/weir"} {
		if err := os.MkdirAll(in(d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range []string{"project/weir.yaml", "project/conf/weir/p.yaml", "elsewhere/p.yaml"} {
		if err := os.WriteFile(in(f), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for link, to := range map[string]string{
		"project/link.yaml": "elsewhere/p.yaml", "project/out": "elsewhere", "alias": "project", "elsewhere/in.yaml": "project/weir.yaml",
	} {
		if err := os.Symlink(in(to), in(link)); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("XDG_STATE_HOME", in("home/.local/state"))
	t.Setenv("XDG_CONFIG_HOME", in("home/.config"))
	t.Setenv("XDG_DATA_HOME", in("home/.local/share"))
	project := sandbox.Share{Host: in("project"), Inside: "/src"}
	weirs := []string{"/h/.config/weir", "/h/.local/share/weir", "/h/.local/state/weir"}
	readOnly := project
	readOnly.ReadOnly = true
	for _, c := range []struct {
		name    string
		flags   runFlags
		share   sandbox.Share
		covered []string // what is mounted over the share, read-only ones with a star
		hidden  []string
		refused bool
	}{
		{"nothing of weir's", runFlags{policyFile: in("elsewhere/p.yaml"), events: in("elsewhere/ev")}, project, nil, nil, false},
		{"the policy", runFlags{policyFile: in("project/weir.yaml")}, project, []string{"/src/weir.yaml*"}, nil, false},
		{"by another name", runFlags{policyFile: in("alias/weir.yaml")}, project, []string{"/src/weir.yaml*"}, nil, false},
		{"deeper", runFlags{policyFile: in("project/conf/weir/p.yaml")}, project, []string{"/src/conf", "/src/conf/weir", "/src/conf/weir/p.yaml*"}, nil, false},
		{"a share that is a link", runFlags{policyFile: in("project/weir.yaml")}, sandbox.Share{Host: in("alias"), Inside: "/src"}, []string{"/src/weir.yaml*"}, nil, false},
		{"a link from elsewhere", runFlags{policyFile: in("elsewhere/in.yaml")}, project, []string{"/src/weir.yaml*"}, nil, false},
		{"a policy behind a directory that is a link", runFlags{policyFile: in("project/out/p.yaml")}, project, nil, nil, true},
		{"an event log behind such a directory", runFlags{events: in("project/out/ev")}, project, nil, nil, true},
		{"a learned policy behind such a directory", runFlags{learn: in("project/out/l.yaml")}, project, nil, nil, true},
		{"a policy that is a link", runFlags{policyFile: in("project/link.yaml")}, project, nil, nil, true},
		{"the event log", runFlags{events: in("project/ev")}, project, nil, nil, true},
		{"the event log, to be", runFlags{events: in("alias/conf/ev")}, project, nil, nil, true},
		{"the learned policy", runFlags{learn: in("project/l.yaml")}, project, nil, nil, true},
		{"events by descriptor", runFlags{events: "fd:3"}, project, nil, nil, false},
		{"all in a share that is read-only", runFlags{policyFile: in("project/weir.yaml"), events: in("project/ev")}, readOnly, nil, nil, false},
		{"a share of the home", runFlags{}, sandbox.Share{Host: in("home"), Inside: "/h", ReadOnly: true}, nil, weirs, false},
		{"a share of the home, writable", runFlags{}, sandbox.Share{Host: in("home"), Inside: "/h"}, []string{"/h/.config", "/h/.local", "/h/.local/share", "/h/.local/state"}, weirs, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := &plan{runFlags: c.flags}
			shares, hidden, err := p.protect([]sandbox.Share{c.share})
			if (err != nil) != c.refused {
				t.Fatalf("error %v", err)
			}
			if err != nil {
				return
			}
			var covered []string
			for _, s := range shares {
				if s == c.share {
					continue
				}
				if s.ReadOnly {
					s.Inside += "*"
				}
				covered = append(covered, s.Inside)
			}
			slices.Sort(hidden)
			slices.Sort(covered)
			covered = slices.Compact(covered)
			if !slices.Equal(covered, c.covered) || !slices.Equal(hidden, c.hidden) {
				t.Errorf("covered %q, hidden %q; want %q and %q", covered, hidden, c.covered, c.hidden)
			}
		})
	}
}

// What is not there cannot be covered: weir's own directories are made before the share is shown.
func TestProtectMakesWhatItHides(t *testing.T) {
	home := t.TempDir()
	for variable, below := range map[string]string{"XDG_STATE_HOME": "state", "XDG_CONFIG_HOME": "config", "XDG_DATA_HOME": "data"} {
		t.Setenv(variable, filepath.Join(home, below))
	}
	for _, dryRun := range []bool{true, false} {
		p := &plan{runFlags: runFlags{dryRun: dryRun}}
		if _, _, err := p.protect([]sandbox.Share{{Host: home, Inside: home}}); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(filepath.Join(home, "config/weir")); (err == nil) == dryRun {
			t.Errorf("dry run %v: %v", dryRun, err)
		}
	}
}

// A share that was asked for read-only is not made writable by what pins the directories in another one.
func TestPinsComeFirst(t *testing.T) {
	home := t.TempDir()
	t.Setenv("XDG_CONFIG_HOME", filepath.Join(home, "config"))
	shares := []sandbox.Share{{Host: home, Inside: home}, {Host: filepath.Join(home, "config"), Inside: filepath.Join(home, "config"), ReadOnly: true}}
	protected, _, err := (&plan{}).protect(shares)
	if err != nil {
		t.Fatal(err)
	}
	if last := protected[len(protected)-1]; last != shares[1] {
		t.Errorf("the last mount is %+v", last)
	}
}

// A share behind a link that lies in a writable share shows whatever the program of an earlier run wants to see.
func TestShareBehindALink(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{"project", "secret"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	link := filepath.Join(dir, "project/data")
	if err := os.Symlink("../secret", link); err != nil {
		t.Fatal(err)
	}
	for _, readOnly := range []bool{true, false} {
		shares := []sandbox.Share{{Host: filepath.Join(dir, "project"), Inside: "/src", ReadOnly: readOnly}, {Host: link, Inside: "/data"}}
		if _, _, err := (&plan{}).protect(shares); (err == nil) != readOnly {
			t.Errorf("read-only %v: %v", readOnly, err)
		}
	}
}

// A program that takes its own home's mode away does not lock its next run out.
func TestHomeCanBeEntered(t *testing.T) {
	t.Setenv("XDG_DATA_HOME", t.TempDir())
	p := &plan{app: "shy"}
	for range 2 {
		home, err := p.appHome()
		if err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(home)
		if err != nil || info.Mode().Perm() != 0o700 {
			t.Fatalf("home is %v, %v", info, err)
		}
		if err := os.Chmod(home, 0); err != nil {
			t.Fatal(err)
		}
	}
}
