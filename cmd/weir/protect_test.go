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
	for link, to := range map[string]string{"project/link.yaml": "elsewhere/p.yaml", "alias": "project"} {
		if err := os.Symlink(in(to), in(link)); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("XDG_STATE_HOME", in("home/.local/state"))
	t.Setenv("XDG_CONFIG_HOME", in("home/.config"))
	t.Setenv("XDG_DATA_HOME", in("home/.local/share"))
	project := sandbox.Share{Host: in("project"), Inside: "/src"}
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
		{"deeper", runFlags{policyFile: in("project/conf/weir/p.yaml")}, project, []string{"/src/conf/weir/p.yaml*", "/src/conf/weir", "/src/conf"}, nil, false},
		{"a share that is a link", runFlags{policyFile: in("project/weir.yaml")}, sandbox.Share{Host: in("alias"), Inside: "/src"}, []string{"/src/weir.yaml*"}, nil, false},
		{"a policy that is a link", runFlags{policyFile: in("project/link.yaml")}, project, nil, nil, true},
		{"the event log", runFlags{events: in("project/ev")}, project, nil, nil, true},
		{"the event log, to be", runFlags{events: in("alias/conf/ev")}, project, nil, nil, true},
		{"the learned policy", runFlags{learn: in("project/l.yaml")}, project, nil, nil, true},
		{"events by descriptor", runFlags{events: "fd:3"}, project, nil, nil, false},
		{"all in a share that is read-only", runFlags{policyFile: in("project/weir.yaml"), events: in("project/ev")}, readOnly, nil, nil, false},
		{"a share of the home", runFlags{}, sandbox.Share{Host: in("home"), Inside: "/h", ReadOnly: true}, nil, []string{"/h/.local/state/weir"}, false},
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
			for _, s := range shares[1:] {
				if s.ReadOnly {
					s.Inside += "*"
				}
				covered = append(covered, s.Inside)
			}
			slices.Sort(hidden)
			if !slices.Equal(covered, c.covered) || !slices.Equal(hidden, c.hidden) {
				t.Errorf("covered %q, hidden %q; want %q and %q", covered, hidden, c.covered, c.hidden)
			}
		})
	}
}
