//go:build linux

package container

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/weir-dev/weir/internal/testpodman"
)

// waiter is a static program that does nothing until it is killed.
func waiter(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "main.go"), []byte("package main\n\nimport \"time\"\n\nfunc main() { time.Sleep(time.Hour) }\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("go", "build", "-o", filepath.Join(dir, "waiter"), "main.go")
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "GO111MODULE=off")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	return filepath.Join(dir, "waiter")
}

// TestPodman has real containers on a bridge that podman made.
func TestPodman(t *testing.T) {
	p := testpodman.Open(t)
	p.Image(t, "waiter", waiter(t))
	bridge := p.Network(t, "weirnet", "--subnet", "10.99.7.0/24")
	one, onePID := p.Run(t, "--name", "first", "--annotation", "team=blue", "--network", "weirnet", "--ip", "10.99.7.10", "--dns", "198.51.100.53", "waiter", "/program")
	_, _ = p.Run(t, "--name", "second", "--network", "weirnet", "--ip", "10.99.7.11", "--hostname", "first", "waiter", "/program")

	f := open(t, "/")
	all, err := f.List(bridge)
	if err != nil || len(all) != 2 {
		t.Fatalf("%d on the bridge, %v: %v", len(all), err, all)
	}
	c, other := all[0], all[1]
	if c.Name != "first" {
		c, other = other, c
	}
	if c.Err != nil || c.Runtime != RuntimePodman || c.ID != one || c.Name != "first" || c.App() != "first" || c.PID != onePID {
		t.Errorf("the first is %#v", c)
	}
	if !strings.Contains(c.Image, "waiter") || !slices.Contains(c.Addresses, addrs("10.99.7.10")[0]) || !slices.Equal(c.Resolvers, addrs("198.51.100.53")) {
		t.Errorf("the first has image %q, addresses %v, resolvers %v", c.Image, c.Addresses, c.Resolvers)
	}
	if c.Labels["team"] != "blue" {
		t.Errorf("the first has labels %v", c.Labels)
	}
	if other.Name != "second" || !slices.Contains(other.Addresses, addrs("10.99.7.11")[0]) {
		t.Errorf("the second, whose host name is that of the first, is %#v", other)
	}
	if err := f.Check(c); err != nil {
		t.Errorf("check: %v", err)
	}
	ns, err := f.Namespace("/proc/" + itoa(onePID) + "/ns/net")
	if err != nil || ns.Name != "first" || ns.Cookie != c.Cookie {
		t.Errorf("its namespace is %v, %v", ns, err)
	}

	if _, err := p.Podman("rm", "-f", "-t", "0", "first"); err != nil {
		t.Fatal(err)
	}
	if err := f.Check(c); !errors.Is(err, ErrGone) {
		t.Errorf("check of a container that is gone: %v", err)
	}
	p.Run(t, "--name", "third", "--network", "weirnet", "--ip", "10.99.7.10", "waiter", "/program")
	if err := f.Check(c); !errors.Is(err, ErrGone) {
		t.Errorf("check of a container whose address another one has: %v", err)
	}
	if t.Logf("control groups: %v", p.Cgroups); !p.Cgroups {
		t.Log("the containers had no control group of their own; they were found by their conmon")
	}
}
