//go:build linux

package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weir-dev/weir/internal/playground"
)

// subject is one way of running a program with a network.
type subject struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	MTU     int    `json:"mtu"`               // as the client saw it
	Command string `json:"command,omitempty"` // how it is started
	Skipped string `json:"skipped,omitempty"` // why it is not measured

	// target is the server's host as the client has to call it.
	target string

	// wrap is the command line that runs a program inside; nil stands for slirp, which joins a namespace that is there.
	wrap func(program ...string) []string
}

// eventsFile is weir's log, in the bench's directory.
const eventsFile = "events.jsonl"

// subjects returns host, weir and the peers asked for, in this order; those that cannot be measured say why.
func (b *bench) subjects() []*subject {
	port := fmt.Sprint(b.port)
	weir := func(binary, events string, flags ...string) func(...string) []string {
		return prefixed(slices.Concat([]string{binary, "run", "-q"}, flags, []string{"--name", "bench", "--mode", "enforce", "--allow", "host.weir.internal:" + port,
			"--events", filepath.Join(b.dir, events), "--share", filepath.Dir(b.self) + ":ro", "--"}))
	}
	all := []*subject{
		{Name: "host", Version: "no sandbox", target: "127.0.0.1", wrap: func(program ...string) []string { return program }},
		{Name: "weir", Version: firstLine(b.weir, "--version"), target: "host.weir.internal", wrap: weir(b.weir, eventsFile)},
	}
	for _, name := range b.options.peers {
		s := &subject{Name: name}
		name, other, _ := strings.Cut(name, "=")
		switch name {
		case "weir":
			other, _ = filepath.Abs(other)
			s.target, s.wrap = "host.weir.internal", weir(other, filepath.Base(other)+".jsonl")
			name = other
		case "tproxy":
			s.target, s.wrap, s.Version = "host.weir.internal", weir(b.weir, "tproxy.jsonl", "--door", "tproxy"), firstLine(b.weir, "--version")
			all = append(all, s)
			continue
		case "pasta":
			s.target, s.wrap = gatewayAddress, prefixed([]string{"pasta", "--config-net", "--"})
		case "pasta-1500":
			s.target, s.wrap = gatewayAddress, prefixed([]string{"pasta", "--config-net", "--mtu", "1500", "--"})
		case "slirp4netns":
			s.target, s.Command = "10.0.2.2", "slirp4netns --configure PID tap0"
		default:
			s.Skipped = "unknown"
		}
		program, _, _ := strings.Cut(name, "-")
		if path, err := exec.LookPath(program); err != nil && s.Skipped == "" {
			s.Skipped = "not installed"
		} else if s.Skipped == "" {
			s.Version = peerVersion(path)
		}
		all = append(all, s)
	}
	for _, s := range all {
		if s.wrap != nil {
			s.Command = b.anonymous(strings.Join(s.wrap("CMD"), " "))
		}
	}
	return all
}

// anonymous replaces what differs from run to run and from machine to machine.
func (b *bench) anonymous(command string) string {
	return strings.NewReplacer(b.weir, "weir", b.dir, "DIR", fmt.Sprint(b.port), "PORT").Replace(command)
}

// gatewayAddress is the default gateway of the playground's host. pasta gives the namespace the host's addresses and
// routes, and takes what is sent to the gateway to the host's loopback (passt(1), --no-map-gw).
const gatewayAddress = "192.0.2.1"

func prefixed(prefix []string) func(...string) []string {
	return func(program ...string) []string { return slices.Concat(prefix, program) }
}

// peerVersion is what the program says of itself, and the package it came in where that is all there is to know.
func peerVersion(path string) string {
	said := firstLine(path, "--version")
	if !strings.Contains(said, "unknown") {
		return said
	}
	pkg := firstLine("dpkg-query", "--search", path)
	name, _, _ := strings.Cut(pkg, ":")
	if v := firstLine("dpkg-query", "--show", "--showformat=${Package} ${Version}", name); v != "" {
		return v
	}
	return said
}

func firstLine(name string, args ...string) string {
	out, _ := exec.Command(name, args...).Output()
	line, _, _ := strings.Cut(string(out), "\n")
	return strings.TrimSpace(line)
}

// running is a subject with a program in it.
type running struct {
	*subject
	program *exec.Cmd // what was started: the wrapper, or the program itself
	helper  *exec.Cmd // slirp4netns
	stderr  strings.Builder

	exit  *os.File // closing it ends slirp4netns
	stdin *os.File
	enc   *json.Encoder
	out   *os.File
	dec   *json.Decoder
}

// start runs program under the subject as an ordinary user of the host. stdin and stdout are ends of pipes that the caller
// owns, or nil.
func (s *subject) start(b *bench, stdin, stdout *os.File, program ...string) (*running, error) {
	r := &running{subject: s}
	if s.wrap == nil {
		return r, r.startSlirp(b, stdin, stdout, program)
	}
	line := s.wrap(program...)
	r.program = exec.Command(line[0], line[1:]...)
	r.connect(b, stdin, stdout)
	if err := playground.Start(r.program); err != nil {
		return nil, fmt.Errorf("start %s: %w", s.Name, err)
	}
	return r, nil
}

func (r *running) connect(b *bench, stdin, stdout *os.File) {
	r.program.Env = append(os.Environ(), "HOME="+b.dir, "XDG_STATE_HOME="+b.dir, "XDG_DATA_HOME="+b.dir, "XDG_CONFIG_HOME="+b.dir)
	r.program.Dir = b.dir
	r.program.Stderr = &r.stderr
	if stdin != nil {
		r.program.Stdin, r.program.Stdout = stdin, stdout
	}
}

// startSlirp does what slirp4netns(1) shows with unshare(1): a process waits in fresh namespaces, slirp4netns is pointed at
// it, writes to the ready descriptor, and the process goes on to be the program.
func (r *running) startSlirp(b *bench, stdin, stdout *os.File, program []string) error {
	ready, tell, err := os.Pipe()
	if err != nil {
		return err
	}
	defer ready.Close()
	defer tell.Close()
	r.program = exec.Command(b.self, append([]string{"hold"}, program...)...)
	r.connect(b, stdin, stdout)
	r.program.ExtraFiles = []*os.File{ready}
	r.program.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	}
	if err := playground.Start(r.program); err != nil {
		return fmt.Errorf("start %s: %w", r.Name, err)
	}
	end, exit, err := os.Pipe()
	if err != nil {
		return err
	}
	defer end.Close()
	r.exit = exit
	r.helper = exec.Command("slirp4netns", "--configure", "--ready-fd=3", "--exit-fd=4", fmt.Sprint(r.program.Process.Pid), "tap0")
	r.helper.ExtraFiles = []*os.File{tell, end}
	if err := playground.Start(r.helper); err != nil {
		r.helper = nil
		r.program.Process.Kill()
		r.program.Wait()
		return fmt.Errorf("start %s: %w", r.Name, err)
	}
	return nil
}

// holdMain waits for the word on descriptor 3 and becomes the program.
func holdMain(args []string) error {
	ready := os.NewFile(3, "ready")
	if _, err := ready.Read(make([]byte, 1)); err != nil {
		return fmt.Errorf("wait for the network: %w", err)
	}
	ready.Close()
	path, err := exec.LookPath(args[0])
	if err != nil {
		return err
	}
	return unix.Exec(path, args, os.Environ())
}

// startClient starts the measuring client under the subject and asks it for its MTU.
func (s *subject) startClient(b *bench) (*running, error) {
	inR, inW, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	outR, outW, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	r, err := s.start(b, inR, outW, b.self, "client")
	inR.Close()
	outW.Close()
	if err != nil {
		return nil, err
	}
	r.stdin, r.enc, r.out, r.dec = inW, json.NewEncoder(inW), outR, json.NewDecoder(bufio.NewReader(outR))
	a, err := r.ask(order{What: "hello", Target: s.hostPort(b.port)})
	if err != nil {
		return nil, err
	}
	s.MTU = int(a.Value)
	return r, nil
}

// ask has the client do something.
func (r *running) ask(o order) (answer, error) {
	var a answer
	r.out.SetReadDeadline(time.Now().Add(o.For + 3*patience))
	err := r.enc.Encode(o)
	if err == nil {
		err = r.dec.Decode(&a)
	}
	if err != nil {
		r.kill()
		return a, fmt.Errorf("%s: the client ended (%w): %s", r.Name, err, r.said())
	}
	if a.Error != "" {
		return a, errors.New(a.Error)
	}
	return a, nil
}

// said is the last of what the subject wrote to stderr.
func (r *running) said() string {
	lines := strings.Split(strings.TrimSpace(r.stderr.String()), "\n")
	return strings.Join(lines[max(0, len(lines)-3):], "; ")
}

// wait waits for the program to end by itself.
func (r *running) wait() error {
	err := r.program.Wait()
	if r.helper != nil {
		r.exit.Close()
		r.helper.Wait()
	}
	for _, f := range []*os.File{r.stdin, r.out} {
		f.Close() // nil is no harm
	}
	if err != nil {
		return fmt.Errorf("%s: %w: %s", r.Name, err, r.said())
	}
	return nil
}

// stop ends the client by the end of its orders, and what does not end then by force.
func (r *running) stop() {
	r.stdin.Close()
	late := time.AfterFunc(patience, func() { killAll(r.carriers()) })
	defer late.Stop()
	r.wait()
}

// kill ends a subject that does not do what it should, with everything it started.
func (r *running) kill() {
	list := r.carriers()
	r.program.Process.Kill()
	killAll(list)
	r.stdin.Close()
	r.wait()
}

func killAll(list []process) {
	for _, p := range list {
		unix.Kill(p.pid, unix.SIGKILL)
	}
}

// hostPort is the server's address for the client.
func (s *subject) hostPort(port int) string { return net.JoinHostPort(s.target, fmt.Sprint(port)) }
