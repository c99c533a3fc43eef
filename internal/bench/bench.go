//go:build linux

package bench

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weir-dev/weir/internal/playground"
)

// Build is a weir to measure.
type Build struct {
	// Label tells it apart from other builds; empty for the one that the targets are held against.
	Label string
	// Path is the binary.
	Path string
}

// Config says what is measured and how long.
type Config struct {
	// Builds are the weirs, Doors what each is started with (netstack, tproxy, both), Peers the names out of [PeerNames].
	Builds []Build
	Doors  []string
	Peers  []string

	// Tunnel adds each door with a tunnel behind it: over QUIC, and over QUIC in WebSocket.
	Tunnel bool

	// Part are the arguments with which this binary calls [Part] on those that follow.
	Part []string

	// Rounds is how often everything is measured, at least 1. Starts is how many programs are started in each round, Idle how
	// many connections are opened for the memory of one, Rest how long they are left alone before it is read.
	Rounds, Starts, Idle int
	Rest                 time.Duration

	// For is the length of a transfer. Other loads take half of it.
	For time.Duration

	// Wanted chooses the rows, by metric, direction and streams ("throughput up 8", "rr 1", "start_ms"); nil chooses all.
	Wanted func(row string) bool

	// Progress, if not nil, is told what is measured next and how much of all is done.
	Progress func(done, total int, what string)

	// Say, if not nil, is told at once what also stands in the result's notes.
	Say func(text string)

	// Commit and Version are of the measuring program.
	Commit, Version string
}

// Part is the other half of the measuring binary: the client, the server, and what waits for slirp4netns.
func Part(args []string) error {
	parts := map[string]func([]string) error{"client": clientMain, "server": serverMain, "hold": holdMain, "tunnel": tunnelMain}
	if len(args) == 0 || parts[args[0]] == nil {
		return errors.New("bench: no such part")
	}
	return parts[args[0]](args[1:])
}

// Bench is one run. Make it with Open.
type Bench struct {
	config  Config
	dir     string // of the run, removed by who made it
	self    string // a copy of this binary, where every subject can execute it
	port    int    // the server's
	server  *exec.Cmd
	stop    io.Closer // ends the server
	running []*running
	result  *Result
	steps   int // done so far

	mu        sync.Mutex
	live      map[*running]bool // everything that was started and has not ended
	instances int
}

// Open starts the server and one client in every subject. The process must be in a playground; dir is a directory for the
// run's files, empty and short, as sockets are made in it. When ctx ends, everything that runs is killed and Measure
// returns. The caller closes the Bench, and starts no other processes until then: the process adopts what its subjects
// leave behind, and Close ends every child.
func Open(ctx context.Context, config Config, dir string) (*Bench, error) {
	b := &Bench{config: config, dir: dir, live: map[*running]bool{}}
	b.result = &Result{Machine: describeMachine(config), Rounds: config.Rounds, Rows: []*Row{}, Flows: []Recorded{}, Notes: []string{}}
	err := errors.Join(unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), widenPorts(), b.prepare())
	if err == nil {
		err = b.startServer()
	}
	if err != nil {
		b.Close()
		return nil, fmt.Errorf("open bench: %w", err)
	}
	context.AfterFunc(ctx, b.killAll)
	for _, s := range b.subjects() {
		b.result.Subjects = append(b.result.Subjects, s)
		err := s.lack
		if err == nil && ctx.Err() == nil {
			err = b.admit(s)
		}
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		if err != nil && (s.asked == "host" || ctx.Err() != nil) {
			b.Close()
			return nil, fmt.Errorf("open bench: %w", err)
		}
		if err != nil {
			s.Skipped = err.Error()
			b.notef("%s is not measured: %s", s.Label(), s.Skipped)
		}
	}
	return b, nil
}

// admit starts a subject and looks whether it is what it is called.
func (b *Bench) admit(s *Subject) error {
	r, err := b.startClient(s)
	if err != nil {
		return err
	}
	b.running = append(b.running, r)
	return nil
}

// prepare makes the directories and the copy of this binary.
func (b *Bench) prepare() error {
	bin := filepath.Join(b.dir, "bin")
	if err := os.Mkdir(bin, 0o755); err != nil {
		return err
	}
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		return fmt.Errorf("copy the client: %w", err)
	}
	b.self = filepath.Join(bin, clientName)
	if err := os.WriteFile(b.self, self, 0o755); err != nil {
		return fmt.Errorf("copy the client: %w", err)
	}
	return writeMappers(filepath.Join(b.dir, mapperDir))
}

// widenPorts gives the playground's host more ports: all subjects dial from there, and closed connections hold theirs for a
// minute.
func widenPorts() error {
	return os.WriteFile("/proc/sys/net/ipv4/ip_local_port_range", []byte("2048 65535"), 0)
}

// part is the command line of a part of this binary.
func (b *Bench) part(args ...string) []string {
	return append(append([]string{b.self}, b.config.Part...), args...)
}

func (b *Bench) startServer() error {
	line := b.part("server")
	b.server = exec.Command(line[0], line[1:]...)
	b.server.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // ^C on the terminal is for the one who measures
	stdin, err := b.server.StdinPipe()
	if err != nil {
		return err
	}
	stdout, err := b.server.StdoutPipe()
	if err != nil {
		return err
	}
	b.server.Stderr = os.Stderr
	if err := playground.Start(b.server); err != nil {
		return fmt.Errorf("start server: %w", err)
	}
	b.stop = stdin
	if _, err := fmt.Fscan(bufio.NewReader(stdout), &b.port); err != nil {
		return fmt.Errorf("start server: %w", err)
	}
	return nil
}

// Close ends everything that still runs.
func (b *Bench) Close() {
	for _, r := range b.alive() {
		r.end()
	}
	b.running = nil
	if b.stop != nil {
		b.stop.Close()
		b.server.Wait()
		b.stop = nil
	}
	reapRest()
}

// killAll ends every subject by force, from any goroutine.
func (b *Bench) killAll() {
	for _, r := range b.alive() {
		r.kill()
	}
}

// alive are the subjects that have not ended.
func (b *Bench) alive() []*running {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Collect(maps.Keys(b.live))
}

// notef keeps a note for the result.
func (b *Bench) notef(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	b.result.Notes = append(b.result.Notes, text)
	if b.config.Say != nil {
		b.config.Say(text)
	}
}
