//go:build linux

package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/weir-dev/weir/internal/playground"
)

// The world's addresses. Names below churn.example are those of the servers.
var (
	server  = netip.MustParseAddr("198.51.100.20") // echo on TCP and UDP port 7
	closed  = netip.MustParseAddr("198.51.100.21") // nothing listens
	hole    = netip.MustParseAddr("203.0.113.10")  // nobody answers
	secret  = netip.MustParseAddr("198.51.100.66") // not allowed
	names   = 100
	allowed = []string{"*.churn.example:7", server.String() + ":*", closed.String() + ":*", hole.String() + ":*"}
)

func populate(w *playground.World) error {
	var errs []error
	for i := range names {
		errs = append(errs, w.Name(fmt.Sprintf("n%d.churn.example", i), server))
	}
	at := netip.AddrPortFrom(server, 7)
	errs = append(errs, w.Address(closed), w.Address(secret), w.ServeEcho(at), w.ServeEchoUDP(at))
	return errors.Join(errs...)
}

// soak is one run of this command.
type soak struct {
	options
	world *playground.World
	dir   string
	self  string
}

func newSoak(o options, w *playground.World) (*soak, error) {
	s := &soak{options: o, world: w, dir: w.Dir, self: filepath.Join(w.Dir, "bin", "soak")}
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		return nil, fmt.Errorf("copy soak: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(s.self), 0o755); err != nil {
		return nil, err
	}
	return s, os.WriteFile(s.self, self, 0o755)
}

// box is a sandbox with a part of this binary in it.
type box struct {
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	stdout *bufio.Reader
}

// start runs a part of this binary in a sandbox, as an ordinary user of the host.
func (s *soak) start(name string, args ...string) (*box, error) {
	line := []string{"run", "-q", "--name", name, "--mode", "enforce", "--events", filepath.Join(s.dir, name+".jsonl"), "--share", filepath.Dir(s.self) + ":ro"}
	for _, rule := range allowed {
		line = append(line, "--allow", rule)
	}
	line = append(append(line, "--", s.self), args...)
	b := &box{cmd: exec.Command(s.weir, line...)}
	b.cmd.Env = append(os.Environ(), "HOME="+s.dir, "XDG_STATE_HOME="+s.dir, "XDG_DATA_HOME="+s.dir, "XDG_CONFIG_HOME="+s.dir)
	b.cmd.Dir, b.cmd.Stderr = s.dir, os.Stderr
	var err error
	if b.stdin, err = b.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := b.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	b.stdout = bufio.NewReader(out)
	if err := playground.Start(b.cmd); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	return b, nil
}

// ask sends the part one order and returns its answer.
func (b *box) ask(order string) (string, error) {
	if _, err := io.WriteString(b.stdin, order+"\n"); err != nil {
		return "", fmt.Errorf("order %q: %w", order, err)
	}
	return b.stdout.ReadString('\n')
}

// stop ends the part by the end of its orders.
func (b *box) stop() error {
	b.stdin.Close()
	late := time.AfterFunc(30*time.Second, func() { b.cmd.Process.Kill() })
	defer late.Stop()
	return b.cmd.Wait()
}

// quick dials with a short patience.
func quick(network, to string) (net.Conn, error) { return net.DialTimeout(network, to, 2*time.Second) }
