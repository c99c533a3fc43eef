//go:build linux && !client

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weir-dev/weir/flow/event"
	"github.com/weir-dev/weir/internal/lockdown"
	"github.com/weir-dev/weir/tunnel"
	"github.com/weir-dev/weir/tunnel/creds"
	"github.com/weir-dev/weir/tunnel/edge"
)

// "weir run --tunnel" has an edge of its own for the time of the run, in a process beside the data path: it has the keys and the
// clients' connections, and parses nothing that the program sent.

// edgeName is argv[0] of that process.
const edgeName = "weir-edge"

func isEdge() bool { return len(os.Args) > 0 && os.Args[0] == edgeName }

// defaultTunnelAddr is where an edge of a run listens.
const defaultTunnelAddr = ":7443"

// edgeConfig is the launcher's first message to it. Its files are the UDP socket, the TCP listener, the socket towards the data
// path, and the event log where that is a descriptor.
type edgeConfig struct {
	Keys         string // directory
	Owner        tunnel.Owner
	EventsPath   string
	Quiet, Color bool
	LogLevel     string
}

// edgeFiles is how many files come along at least.
const edgeFiles = 3

// edgeProcess is the launcher's side.
type edgeProcess struct {
	control *controlConn
	cmd     *exec.Cmd
	dead    chan struct{}
}

// tunnelSocket is the data path's way to an edge: to the run's own, to the one that serves this user, or none.
func (l *launch) tunnelSocket() (*os.File, error) {
	if l.tunnel != "" {
		return l.startEdge(l.owner())
	}
	if !l.joins() {
		return nil, nil
	}
	f, err := l.joinEdge()
	if errors.Is(err, errNoEdge) { // no way out is no reason not to run: such flows are denied
		if !l.quiet {
			l.ui.warnf("no edge is running: what goes by way of the tunnel is denied (no-tunnel)")
			l.ui.fix("weir run --tunnel ..., or weir serve --tunnel-listen " + defaultTunnelAddr)
		}
		return nil, nil
	}
	return f, err
}

// joins reports whether the data path is to use an edge that serves all sandboxes of this user.
func (l *launch) joins() bool { return l.tunnelled && l.tunnel == "" }

func (l *launch) owner() tunnel.Owner {
	return tunnel.Owner{Space: l.space, App: l.app, Sandbox: l.id}
}

// joinEdge joins that edge.
func (l *launch) joinEdge() (*os.File, error) {
	dir, err := runtimeDir()
	if err != nil {
		return nil, err
	}
	return joinEdge(filepath.Join(dir, edgeSocket), l.owner())
}

// startEdge starts the run's own edge and returns the data path's end of its socket.
func (l *launch) startEdge(who tunnel.Owner) (*os.File, error) {
	keys, err := keysDir("")
	if err != nil {
		return nil, err
	}
	store, err := openKeys("", true)
	if err != nil {
		return nil, err
	}
	udp, tcp, err := listenTunnel(l.tunnel)
	if err != nil {
		return nil, err
	}
	defer udp.Close()
	defer tcp.Close()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("make socket to edge: %w", err)
	}
	near, far := os.NewFile(uintptr(fds[0]), "edge"), os.NewFile(uintptr(fds[1]), "edge")
	cfg := edgeConfig{Keys: keys, Owner: who, EventsPath: l.eventsTarget.path, Quiet: l.quiet, Color: l.ui.color, LogLevel: l.logLevel}
	err = l.execEdge(cfg, udp, tcp.(*net.TCPListener), far)
	far.Close()
	if err != nil {
		near.Close()
		return nil, err
	}
	if !l.quiet && !l.tunnelled {
		l.ui.sayf("no rule leads through the tunnel: --route tunnel for all flows, or a rule TARGET via tunnel")
	}
	if !l.quiet {
		clients, _ := store.Clients()
		l.announceEdge(udp.LocalAddr().(*net.UDPAddr).Port, slices.ContainsFunc(clients, func(c creds.Record) bool { return c.Space == l.space }))
	}
	return near, nil
}

// announceEdge says how a client gets in.
func (l *launch) announceEdge(port int, enrolled bool) {
	token := ""
	if !enrolled {
		token = "token"
		l.ui.sayf("nobody is enrolled in space %s yet; a token for one machine: weir keys token --space %s > token", l.space, l.space)
	}
	l.ui.sayf("the tunnel waits on port %d; on the user's machine: weir connect --tunnel https://%s%s", port, publicAddress(l.tunnel, uint16(port)), flagIf("--token-file", token))
}

// execEdge starts the process and waits until it is ready.
func (l *launch) execEdge(cfg edgeConfig, udp *net.UDPConn, tcp *net.TCPListener, far *os.File) error {
	files := []*os.File{nil, nil, far}
	var err error
	if files[0], err = udp.File(); err != nil {
		return fmt.Errorf("start edge: %w", err)
	}
	defer files[0].Close()
	if files[1], err = tcp.File(); err != nil {
		return fmt.Errorf("start edge: %w", err)
	}
	defer files[1].Close()
	if l.eventsTarget.fd >= 0 {
		fd, err := unix.FcntlInt(uintptr(l.eventsTarget.fd), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("start edge: %w", err)
		}
		files = append(files, os.NewFile(uintptr(fd), l.events))
		defer files[edgeFiles].Close()
	}
	control, remote, err := newControlPair(maxErrand)
	if err != nil {
		return err
	}
	defer remote.Close()
	p := &edgeProcess{control: control, dead: make(chan struct{})}
	if p.cmd, err = execPart(edgeName, remote, p.dead); err != nil {
		control.Close()
		return err
	}
	l.edge = p
	if err := control.send(cfg, files...); err != nil {
		return fmt.Errorf("start edge: %w", err)
	}
	var answer dataPathAnswer
	if _, err := control.receive(&answer); err != nil {
		return fmt.Errorf("start edge: %w", err)
	}
	if answer.Error != "" {
		return errors.New(answer.Error)
	}
	return nil
}

// edgeGrace is how long the edge of a run may take to tell its clients that it ends.
const edgeGrace = 3 * time.Second

// end ends the process. It is called when the data path has ended.
func (p *edgeProcess) end() {
	if p == nil {
		return
	}
	p.control.Close()
	select {
	case <-p.dead:
	case <-time.After(edgeGrace):
		p.cmd.Process.Kill()
		<-p.dead
	}
}

// edgeMain is the whole life of the process. It ends when the launcher is gone.
func edgeMain() {
	control, err := openControl(os.NewFile(3, "control"), maxErrand)
	if err != nil {
		os.Exit(1)
	}
	var cfg edgeConfig
	files, err := control.receive(&cfg)
	if err != nil {
		os.Exit(1)
	}
	r := &runEdge{cfg: cfg}
	if err := r.open(files); err != nil {
		control.send(newDataPathAnswer(err))
		os.Exit(1)
	}
	control.send(dataPathAnswer{})
	control.receive(&order{}) // there is no order: the end is what ends it
	r.close()
	os.Exit(0)
}

// runEdge is the edge of one run.
type runEdge struct {
	cfg    edgeConfig
	log    *event.Log
	edge   *edge.Edge
	joins  *joins
	cancel context.CancelFunc
	served sync.WaitGroup
}

func (r *runEdge) open(files []*os.File) error {
	if len(files) < edgeFiles {
		return errors.New("open edge: its sockets did not come")
	}
	limitProcessors()
	store, err := openKeys(r.cfg.Keys, false)
	if err != nil {
		return err
	}
	udp, err := net.FilePacketConn(files[0])
	if err != nil {
		return fmt.Errorf("open edge: %w", err)
	}
	tcp, err := net.FileListener(files[1])
	if err != nil {
		return fmt.Errorf("open edge: %w", err)
	}
	dataPath, err := openControl(files[2], 0)
	if err != nil {
		return err
	}
	dirs, err := r.openEvents(files[edgeFiles:])
	if err != nil {
		return err
	}
	if _, err := lockdown.Edge(append(dirs, r.cfg.Keys)...); err != nil {
		return err
	}
	book := &edgeBook{app: r.cfg.Owner.App, sandbox: r.cfg.Owner.Sandbox, log: r.log}
	if !r.cfg.Quiet {
		book.ui = &ui{w: os.Stderr, color: r.cfg.Color}
	}
	r.edge, err = edge.New(edge.Config{UDP: udp.(*net.UDPConn), TCP: tcp, Store: store, Changed: book.changed, Log: newLogger(os.Stderr, r.cfg.LogLevel)})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	r.cancel, r.joins = cancel, newJoins(r.edge)
	r.served.Go(func() { r.joins.carry(ctx, dataPath.c, r.cfg.Owner) })
	return nil
}

// openEvents opens the event log, and says where it lies.
func (r *runEdge) openEvents(files []*os.File) (dirs []string, err error) {
	if len(files) > 0 {
		r.log, err = event.OpenFD(files[0].Fd(), event.Limits{})
		return nil, err
	}
	r.log, err = event.OpenFile(r.cfg.EventsPath, event.Limits{})
	return []string{filepath.Dir(r.cfg.EventsPath)}, err
}

// runDrain is how long clients may take to hear that the run is over: its flows have ended.
const runDrain = time.Second

func (r *runEdge) close() {
	r.cancel()
	r.served.Wait()
	ctx, cancel := context.WithTimeout(context.Background(), runDrain)
	defer cancel()
	r.edge.Drain(ctx, reconnectAfter)
	r.edge.Close()
	r.log.Close()
}
