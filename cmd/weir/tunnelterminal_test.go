//go:build linux && !client

package main

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weir-dev/weir/tunnel"
)

// asWeir makes the test binary the command itself, for tests that need a process.
const asWeir = "WEIR_TEST_AS_WEIR"

func TestMain(m *testing.M) {
	if os.Getenv(asWeir) != "" {
		os.Exit(Main(os.Args[1:]))
	}
	os.Exit(m.Run())
}

// terminal is a pseudo-terminal with weir in it.
type terminal struct {
	ours, theirs *os.File
	cmd          *exec.Cmd
	before       *unix.Termios

	mu   sync.Mutex
	seen bytes.Buffer
	read chan struct{} // closed when nothing more comes
	deaf atomic.Bool   // nothing is read
}

// onTerminal starts weir on a terminal of its own.
func onTerminal(t *testing.T, args ...string) *terminal {
	t.Helper()
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	p := &terminal{ours: os.NewFile(uintptr(fd), "ptmx"), read: make(chan struct{})}
	p.theirs, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetWinsize(int(p.theirs.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: 100}); err != nil {
		t.Fatal(err)
	}
	if p.before, err = unix.IoctlGetTermios(int(p.theirs.Fd()), unix.TCGETS); err != nil {
		t.Fatal(err)
	}
	p.cmd = exec.Command(os.Args[0], args...)
	p.cmd.Env = append(os.Environ(), asWeir+"=1", "TERM=xterm", "NO_COLOR=1")
	p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = p.theirs, p.theirs, p.theirs
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go p.listen()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		p.theirs.Close()
		p.ours.Close()
		<-p.read
	})
	return p
}

func (p *terminal) listen() {
	defer close(p.read)
	b := make([]byte, 4096)
	for {
		n, err := p.ours.Read(b)
		p.mu.Lock()
		p.seen.Write(b[:n])
		p.mu.Unlock()
		if err != nil {
			return
		}
		for p.deaf.Load() {
			time.Sleep(10 * time.Millisecond)
		}
	}
}

// stall has the terminal take nothing more.
func (p *terminal) stall(t *testing.T) {
	t.Helper()
	p.deaf.Store(true)
	t.Cleanup(func() { p.deaf.Store(false) })
	fd, err := unix.Open(p.theirs.Name(), unix.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	for full := 0; full < 5; {
		if _, err := unix.Write(fd, make([]byte, 1024)); err == unix.EAGAIN {
			full++
			time.Sleep(20 * time.Millisecond)
		}
	}
}

// TestTerminalThatTakesNothing: the command ends, whatever the terminal does.
func TestTerminalThatTakesNothing(t *testing.T) {
	h := newHosted(t)
	p := onTerminal(t, "connect", "--tunnel", h.url(), "--token-file", h.token, "--client", "laptop")
	p.shows(t, "connected")
	p.stall(t)
	p.types(t, "?") // another picture, which finds no room
	p.cmd.Process.Signal(syscall.SIGTERM)
	ended := make(chan struct{})
	go func() { defer close(ended); p.cmd.Process.Wait() }()
	select {
	case <-ended:
	case <-time.After(20 * time.Second):
		t.Error("it still runs")
	}
}

func (p *terminal) text() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.seen.String()
}

// shows waits until the terminal was sent a text.
func (p *terminal) shows(t *testing.T, what string) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if strings.Contains(p.text(), what) {
			return
		}
	}
	t.Fatalf("%q was never shown: %q", what, p.text())
}

func (p *terminal) types(t *testing.T, keys string) {
	t.Helper()
	if _, err := p.ours.WriteString(keys); err != nil {
		t.Fatal(err)
	}
}

// TestTerminalIsGivenBack: however the command ends, the terminal is what it was, and what was said of it stands on it.
func TestTerminalIsGivenBack(t *testing.T) {
	for _, c := range []struct {
		name   string
		end    func(t *testing.T, p *terminal)
		status int // -1 for a signal
		says   string
	}{
		{"q", func(t *testing.T, p *terminal) { p.types(t, "q") }, 0, ""},
		{"^C", func(t *testing.T, p *terminal) { p.types(t, "\x03") }, 0, ""},
		{"SIGTERM", func(_ *testing.T, p *terminal) { p.cmd.Process.Signal(syscall.SIGTERM) }, 0, ""},
		{"SIGHUP", func(_ *testing.T, p *terminal) { p.cmd.Process.Signal(syscall.SIGHUP) }, 0, ""},
		{"SIGKILL", func(_ *testing.T, p *terminal) { p.cmd.Process.Kill() }, -1, ""},
		{"a crash", func(_ *testing.T, p *terminal) { p.cmd.Process.Signal(syscall.SIGQUIT) }, 2, "SIGQUIT: quit"},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newHosted(t)
			p := onTerminal(t, "connect", "--tunnel", h.url(), "--token-file", h.token, "--client", "laptop")
			p.shows(t, "connected")
			if !strings.Contains(p.text(), screenEnter) {
				t.Errorf("no picture: %q", p.text())
			}
			c.end(t, p)
			p.cmd.Wait()
			if got := p.cmd.ProcessState.ExitCode(); got != c.status {
				t.Errorf("status %d, want %d", got, c.status)
			}
			p.shows(t, screenLeave)
			p.shows(t, c.says)
			after := &unix.Termios{}
			for range 500 { // the guard works after weir itself has ended
				var err error
				if after, err = unix.IoctlGetTermios(int(p.theirs.Fd()), unix.TCGETS); err != nil {
					t.Fatal(err)
				}
				if after.Lflag == p.before.Lflag {
					break
				}
				time.Sleep(10 * time.Millisecond)
			}
			if after.Lflag != p.before.Lflag || after.Iflag != p.before.Iflag || after.Oflag != p.before.Oflag {
				t.Errorf("modes of the terminal: %+v, before %+v", after, p.before)
			}
			left := p.text()[strings.LastIndex(p.text(), screenLeave):]
			if strings.Contains(left, "\x1b[?1049h") {
				t.Errorf("the picture came back: %q", left)
			}
		})
	}
}

// TestAskOnTerminal: a person at a terminal says yes for good, and the next run knows.
func TestAskOnTerminal(t *testing.T) {
	h, at := newHosted(t), destinationServer(t)
	sandbox := h.Sandbox(tunnel.Owner{Space: "acme", App: "postgres", Sandbox: "7f3a9c"})
	p := onTerminal(t, "connect", "--tunnel", h.url(), "--token-file", h.token, "--client", "laptop", "--ask")
	p.shows(t, "connected")
	failed := make(chan error, 1)
	elsewhere := tunnel.Open{Network: "tcp", Addr: netip.MustParseAddrPort("[100::1]:5432"), Names: []string{"db.example"}}
	go func() {
		c, err := sandbox.OpenStream(t.Context(), elsewhere)
		if err == nil {
			c.Close()
		}
		failed <- err
	}()
	p.shows(t, "postgres wants to connect to [100::1]:5432 by tcp")
	p.shows(t, "THIS MACHINE'S RESOLVER DOES NOT")
	time.Sleep(deafFor)
	p.types(t, "a")
	if err := <-failed; err == nil || errors.Is(err, syscall.EACCES) { // it was dialled: in the discard prefix is nobody
		t.Errorf("after a yes: %v", err)
	}
	file := filepath.Join(os.Getenv("XDG_CONFIG_HOME"), "weir", "connect-asked.yaml")
	text, err := os.ReadFile(file)
	if err != nil || !strings.Contains(string(text), `- "[100::1]:5432/tcp"`) {
		t.Errorf("%s: %s, %v", file, text, err)
	}
	// What is guarded nobody is asked about.
	if _, err := sandbox.OpenStream(t.Context(), tunnel.Open{Network: "tcp", Addr: at}); !errors.Is(err, syscall.EACCES) {
		t.Errorf("the loopback: %v", err)
	}
	p.types(t, "qq")
	p.cmd.Wait()
}
