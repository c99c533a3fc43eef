//go:build linux

package bench

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weir-dev/weir/flow/event"
	"github.com/weir-dev/weir/internal/playground"
)

// A tunnel is four processes beside the program: its data path and launcher, the edge, and the client of the user, all on this
// machine and joined by loopback. Each subject has an edge and a client of its own, so that what they take is its own, too.

// Names of files in the directory of an instance.
const (
	userPid   = "user.pid"      // of the client
	userLog   = "connect.jsonl" // what the client says
	tokenFile = "token"
)

// Transports of a tunnel, as `weir connect --transport` takes them and events have them.
const (
	overQUIC      = "quic"
	overWebSocket = "websocket"
)

// tunnelPrefix begins the names of subjects with a tunnel.
const tunnelPrefix = "tunnel-"

// tunnelled is a build of weir with one of its doors and a tunnel behind it.
func (b *Bench) tunnelled(build Build, door, transport string) *Subject {
	s := &Subject{Name: tunnelPrefix + door, target: playground.Host4.Addr().String(), look: lookTunnel, tunnel: transport}
	s.Variant = strings.TrimSpace(build.Label + " " + strings.TrimPrefix(transport, overQUIC))
	binary, err := filepath.Abs(build.Path)
	if err != nil {
		s.lack = err
		return s
	}
	s.Version = firstLine(binary, "--version")
	s.wrap = func(dir string, program ...string) []string {
		server := fmt.Sprint(s.target, ":", b.port)
		return slices.Concat(b.part("tunnel", "-weir", binary, "-dir", dir, "-transport", transport, "-allow", server, "--"),
			[]string{binary, "run", "-q", "--door", door, "--name", "bench", "--mode", "enforce", "--route", "tunnel",
				"--allow", server, "--events", filepath.Join(dir, eventsFile), "--share", filepath.Dir(b.self) + ":ro", "--"}, program)
	}
	return s
}

// lookTunnel reads the door from weir's log and the transport from what its client says.
func lookTunnel(r *running) (string, error) {
	door, err := lookWeir(r)
	if err != nil {
		return "", err
	}
	said, err := os.ReadFile(filepath.Join(r.dir, userLog))
	if err != nil {
		return "", err
	}
	for line := range bytes.Lines(said) {
		if e, err := event.Parse(line); err == nil {
			if up, ok := e.Details.(*event.Tunnel); ok && up.Kind() == event.KindTunnelUp && up.Transport != r.tunnel {
				return "", fmt.Errorf("the tunnel goes over %s", event.Escape(up.Transport))
			}
		}
	}
	return tunnelPrefix + door, nil
}

// tunnelMain starts an edge and a client, has the client enrol, and runs what follows as the edge's sandbox.
func tunnelMain(args []string) error {
	flags := flag.NewFlagSet("tunnel", flag.ContinueOnError)
	weir := flags.String("weir", "", "the binary")
	dir := flags.String("dir", "", "of this instance")
	transport := flags.String("transport", overQUIC, "of the tunnel")
	allow := flags.String("allow", "", "what the client lets the sandbox reach")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if err := os.WriteFile("/proc/self/comm", []byte("weir-bench-tun"), 0); err != nil { // the client has the name of this binary
		return err
	}
	t := tunnelEnds{weir: *weir, dir: *dir}
	defer t.end()
	if err := t.start(*transport, *allow); err != nil {
		return fmt.Errorf("start tunnel: %w", err)
	}
	cmd := exec.Command(flags.Args()[0], flags.Args()[1:]...)
	cmd.Env = t.environment("hosted")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	return cmd.Run()
}

// tunnelEnds are the edge and the client of a subject.
type tunnelEnds struct {
	weir, dir string
	running   []*exec.Cmd
}

// environment keeps the files of the hosted side and of the user apart.
func (t *tunnelEnds) environment(side string) []string {
	env := os.Environ()
	for _, name := range []string{"XDG_STATE_HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME", "XDG_RUNTIME_DIR"} {
		env = append(env, name+"="+filepath.Join(t.dir, side))
	}
	return env
}

func (t *tunnelEnds) command(side string, args ...string) *exec.Cmd {
	cmd := exec.Command(t.weir, args...)
	cmd.Env, cmd.Stderr = t.environment(side), os.Stderr
	return cmd
}

func (t *tunnelEnds) start(transport, allow string) error {
	for _, side := range []string{"hosted", "user"} {
		if err := os.Mkdir(filepath.Join(t.dir, side), 0o700); err != nil {
			return err
		}
	}
	at, err := freePort()
	if err != nil {
		return err
	}
	if err := t.background(t.command("hosted", "serve", "--tunnel-listen", at)); err != nil {
		return err
	}
	token, err := t.command("hosted", "keys", "token").Output()
	if err != nil {
		return fmt.Errorf("make token: %w", err)
	}
	if err := os.WriteFile(filepath.Join(t.dir, tokenFile), token, 0o600); err != nil {
		return err
	}
	log, err := os.Create(filepath.Join(t.dir, userLog))
	if err != nil {
		return err
	}
	defer log.Close()
	user := t.command("user", "connect", "--json", "--tunnel", "https://"+at, "--token-file", filepath.Join(t.dir, tokenFile),
		"--transport", transport, "--allow", allow)
	user.Stdout = log
	if err := t.background(user); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(t.dir, userPid), fmt.Append(nil, user.Process.Pid), 0o600); err != nil {
		return err
	}
	return t.awaitUp(log.Name())
}

// background starts a command that is ended with the others.
func (t *tunnelEnds) background(cmd *exec.Cmd) error {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGTERM}
	if err := cmd.Start(); err != nil {
		return err
	}
	t.running = append(t.running, cmd)
	return nil
}

// awaitUp waits until the client says that the tunnel is up.
func (t *tunnelEnds) awaitUp(log string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	for {
		said, err := os.ReadFile(log)
		switch {
		case err != nil:
			return err
		case bytes.Contains(said, []byte(`"event":"tunnel-up"`)):
			return nil
		case ctx.Err() != nil:
			return errors.New("the client did not connect")
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// end ends client and edge, in this order.
func (t *tunnelEnds) end() {
	for _, cmd := range slices.Backward(t.running) {
		cmd.Process.Signal(unix.SIGTERM)
		late := time.AfterFunc(patience, func() { cmd.Process.Kill() })
		cmd.Wait()
		late.Stop()
	}
}

// freePort is an address of this host that nobody has, for TCP and UDP.
func freePort() (string, error) {
	for range 100 {
		ln, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			return "", err
		}
		udp, err := net.ListenPacket("udp4", ln.Addr().String())
		ln.Close()
		if err == nil {
			udp.Close()
			return ln.Addr().String(), nil
		}
	}
	return "", errors.New("find free port: none is free for TCP and UDP")
}

// sides splits the processes that carry a tunnel: those of the hosted side, and the user's client.
func (r *running) sides() (hosted, user []process) {
	text, _ := os.ReadFile(filepath.Join(r.dir, userPid))
	pid, _ := strconv.Atoi(string(text))
	for _, p := range r.carriers() {
		if p.pid == pid {
			user = append(user, p)
		} else {
			hosted = append(hosted, p)
		}
	}
	return hosted, user
}

// measureSides adds what idle flows cost each end: memory that it grew by, and processor time while nothing happens.
func (b *Bench) measureSides(ctx context.Context, r *running, before [2][]process) {
	if r.tunnel == "" {
		return
	}
	rss := func(p process) int64 { return p.rss }
	cpu := func(p process) time.Duration { return p.cpu }
	hosted, user := r.sides()
	start := time.Now()
	select {
	case <-time.After(idleWatch):
	case <-ctx.Done():
		return
	}
	hostedAfter, userAfter := r.sides()
	took := time.Since(start)
	for _, side := range []struct {
		name               string
		before, now, later []process
	}{{"hosted", before[0], hosted, hostedAfter}, {"user", before[1], user, userAfter}} {
		b.result.add(r.Subject, Row{Metric: "idle_rss", Direction: side.name, Streams: b.config.Idle, Unit: "MB"},
			float64(together(side.later, rss)-together(side.before, rss))/1e6)
		b.result.add(r.Subject, Row{Metric: "idle_cpu", Direction: side.name, Streams: b.config.Idle, Unit: "%"},
			100*max(total(side.later, cpu)-total(side.now, cpu), clockTick).Seconds()/took.Seconds())
	}
}

// idleWatch is how long idle flows are watched for what they cost: twice the keep-alive of a session.
const idleWatch = 10 * time.Second
