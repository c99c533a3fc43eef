//go:build linux

// Package boxed is what the long measurements (hack/soak, hack/scale) have in common: it runs parts of the measuring program
// in sandboxes, gives them orders, one line each, and reads what the kernel says about weir's processes.
//
// The caller is in a playground and keeps that one's capabilities, so it may look at every process; the sandboxes are
// started as by an ordinary user.
package boxed

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/weir-dev/weir/internal/playground"
)

// stopPatience is how long a part may take to end once its orders have.
const stopPatience = 30 * time.Second

// Box is a sandbox with a part of this program in it.
type Box struct {
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	stdout *bufio.Reader
}

// How says how sandboxes are started.
type How struct {
	Weir string   // the binary
	Self string   // this program, as Copy left it
	Home string   // directory for the state of weir
	Args []string // flags of weir run
}

// Copy puts this program in a directory of its own below dir, which sandboxes may see, and returns its path.
func Copy(dir, name string) (path string, err error) {
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		return "", fmt.Errorf("copy %s: %w", name, err)
	}
	path = filepath.Join(dir, "bin", name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return "", fmt.Errorf("copy %s: %w", name, err)
	}
	return path, os.WriteFile(path, self, 0o755)
}

// Start runs the part of this program that args name. Stop it.
func (h How) Start(args ...string) (*Box, error) {
	line := append([]string{"run", "-q", "--share", filepath.Dir(h.Self) + ":ro"}, h.Args...)
	line = append(append(line, "--", h.Self), args...)
	b := &Box{cmd: exec.Command(h.Weir, line...)}
	b.cmd.Env = append(os.Environ(), "HOME="+h.Home, "XDG_STATE_HOME="+h.Home, "XDG_DATA_HOME="+h.Home, "XDG_CONFIG_HOME="+h.Home)
	b.cmd.Dir, b.cmd.Stderr = h.Home, os.Stderr
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
		return nil, fmt.Errorf("start sandbox: %w", err)
	}
	return b, nil
}

// PID is the process id of the launcher.
func (b *Box) PID() int { return b.cmd.Process.Pid }

// Ask sends the part one order and returns its answer, with the newline.
func (b *Box) Ask(order string) (string, error) {
	if _, err := io.WriteString(b.stdin, order+"\n"); err != nil {
		return "", fmt.Errorf("order %q: %w", order, err)
	}
	return b.Answer()
}

// Answer returns the next line that the part says, with the newline.
func (b *Box) Answer() (string, error) {
	line, err := b.stdout.ReadString('\n')
	if errors.Is(err, io.EOF) {
		err = fmt.Errorf("the part has ended: %w", err)
	}
	return line, err
}

// Stop ends the part by the end of its orders, and kills it if that does not help.
func (b *Box) Stop() error {
	b.stdin.Close()
	late := time.AfterFunc(stopPatience, func() { b.cmd.Process.Kill() })
	defer late.Stop()
	return b.cmd.Wait()
}
