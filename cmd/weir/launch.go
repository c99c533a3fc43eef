//go:build linux && !client

package main

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/weir-dev/weir/flow/event"
	"github.com/weir-dev/weir/internal/lockdown"
	"github.com/weir-dev/weir/sandbox"
)

// drainGrace is how long the data path may go on carrying what CMD had written when it ended.
const drainGrace = 2 * time.Second

// reportTimeout is how long its report may take: the grace, the end of its flows and of its event log, and time to spare.
// A data path that is stuck (a dead network file system under the event log) must not keep the user's terminal.
const reportTimeout = drainGrace + 10*time.Second

// launch is the launcher's side of one running sandbox: it holds the walls and the data path together, and nothing that
// came over the network ever reaches it unparsed.
type launch struct {
	*plan
	id       string
	ui       *ui
	box      *sandbox.Sandbox
	dataPath *exec.Cmd
	edge     *edgeProcess // nil without --tunnel
	control  *controlConn
	sending  sync.Mutex // serialises orders

	// dead is closed when the data path has ended, for whatever reason.
	dead chan struct{}
	// stdoutDone waits for what CMD wrote; nil when its stdout is our own.
	stdoutDone func()

	// stopped says that CMD ended by a signal which weir got too: somebody wanted it to end.
	stopped bool

	// netns keeps the sandbox's network namespace alive until the data path has drained it.
	netns *os.File
}

// execute runs the plan and returns an exitError with CMD's status, nil for 0.
func (p *plan) execute() error {
	l := &launch{plan: p, id: newSandboxID(), ui: newUI(os.Stderr), dead: make(chan struct{})}
	l.ui.color = l.ui.color && !p.noColor
	defer l.close()
	// From here on no signal ends weir: CMD gets those that come while it is being started, and the book is closed after it.
	signals := make(chan os.Signal, 16)
	for _, sig := range forwarded {
		if !signal.Ignored(sig) { // nohup(1): what weir is to ignore CMD ignores as well
			signal.Notify(signals, sig)
		}
	}
	defer signal.Stop(signals)
	if err := l.start(); err != nil {
		return exitError{startStatus(err), withHint(err)}
	}
	l.announce()
	status := l.wait(signals)
	rep := l.finish(status)
	return l.conclude(status, rep)
}

// start builds everything and releases CMD.
func (l *launch) start() error {
	if err := l.startDataPath(); err != nil {
		return err
	}
	l.sending.Lock() // the configuration comes before any order: what waits on stdin may end the installation at once
	defer l.sending.Unlock()
	if l.policy.install && l.mcp == "auto" && !term.IsTerminal(0) {
		stdin, stdout, finished, err := watchStdio(l.installed)
		if err != nil {
			return err
		}
		defer stdin.Close()
		defer stdout.Close()
		l.spec.Stdin, l.spec.Stdout, l.stdoutDone = stdin, stdout, finished
	}
	l.spec.Debug = l.logLevel == "debug"
	box, err := sandbox.Start(l.spec)
	if err != nil {
		return err
	}
	l.box = box
	if l.netns, err = box.NetNS(); err != nil {
		return err
	}
	if err := l.configureDataPath(); err != nil {
		return err
	}
	if err := lockdown.Launcher(); err != nil {
		return err
	}
	return box.Release()
}

// installed ends the time of the install rules.
func (l *launch) installed() {
	l.sending.Lock()
	defer l.sending.Unlock()
	l.control.send(order{InstallDone: true})
}

// startDataPath starts this binary again as the data path. It waits for its configuration while the walls are built.
func (l *launch) startDataPath() error {
	control, remote, err := newControlPair(maxMessage)
	if err != nil {
		return err
	}
	defer remote.Close()
	l.control = control
	l.dataPath, err = execDataPath(remote, l.dead)
	return err
}

// execDataPath starts this binary again as a data path.
func execDataPath(control *os.File, dead chan<- struct{}, keep ...uintptr) (*exec.Cmd, error) {
	return execPart(dataPathName, control, dead, keep...)
}

// execPart starts this binary again under the name of a part of it, with the capabilities in keep and no other. dead is closed
// when it has ended.
func execPart(name string, control *os.File, dead chan<- struct{}, keep ...uintptr) (*exec.Cmd, error) {
	if err := keepFiles(); err != nil {
		return nil, err
	}
	cmd := &exec.Cmd{
		Path: "/proc/self/exe", Args: []string{name},
		Env:    []string{"GOTRACEBACK=" + os.Getenv("GOTRACEBACK")},
		Stderr: os.Stderr, ExtraFiles: []*os.File{control}, Dir: "/",
		// A session of its own: ^C on the terminal is for CMD.
		SysProcAttr: &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setsid: true},
	}
	started := make(chan error)
	go keepPart(cmd, dead, started, keep)
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	return cmd, nil
}

// keepFiles marks all that weir was started with, but for 0, 1 and 2, as its own: the data path, which is to have no file
// of the host's, and the helpers that map ids would inherit it.
func keepFiles() error {
	open, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return fmt.Errorf("list open files: %w", err)
	}
	for _, e := range open {
		if fd, err := strconv.Atoi(e.Name()); err == nil && fd > 2 {
			unix.CloseOnExec(fd)
		}
	}
	return nil
}

// keepPart starts and reaps a process. Without a data path nothing leaves the sandbox any more, so CMD ends with it. The
// thread has nothing to give to what it executes, not even root's capabilities, but for those in keep, and stays for
// PDEATHSIG, which follows it.
func keepPart(cmd *exec.Cmd, dead chan<- struct{}, started chan<- error, keep []uintptr) {
	runtime.LockOSThread()
	err := lockdown.BequeathOnly(keep...)
	if err == nil {
		err = cmd.Start()
	}
	started <- err
	if err == nil {
		cmd.Wait()
		close(dead)
	}
}

func (l *launch) configureDataPath() error {
	link, info := l.box.Link()
	cfg := dataPathConfig{
		App: l.app, Sandbox: l.id, Command: l.command, Door: l.door, Link: info, IPv6: l.spec.Addr6.IsValid(), HostIPv6: hostHasIPv6(),
		Policy: l.policy, EventsPath: l.eventsTarget.path, Learn: l.learn != "", Quiet: l.quiet, LogLevel: l.logLevel,
		Joins: l.joins(), Color: l.ui.color, Known: knownHosts(l.app), Search: l.spec.Search,
	}
	for _, wall := range l.box.Held() {
		cfg.Held = append(cfg.Held, "cmd:"+wall)
	}
	var files []*os.File
	defer func() { closeAll(files) }()
	add := func(name string, f *os.File) {
		if f != nil {
			cfg.Files, files = append(cfg.Files, name), append(files, f)
		}
	}
	add("link", link)
	for kind, sockets := range l.box.DoorSockets() {
		for _, f := range sockets {
			add(kind, f)
		}
	}
	add("dial", l.box.DialSocket())
	tunnel, err := l.tunnelSocket()
	if err != nil {
		return err
	}
	add("edge", tunnel)
	errands, err := l.serveErrands()
	if err != nil {
		return err
	}
	add("errands", errands)
	owners, err := l.serveOwners()
	if err != nil {
		return err
	}
	add("owners", owners)
	if l.eventsTarget.fd >= 0 {
		add("events", os.NewFile(uintptr(l.eventsTarget.fd), l.events))
	}
	for port, listeners := range l.box.HostPortListeners() {
		for _, f := range listeners {
			add("host-port:"+strconv.Itoa(int(port)), f)
		}
	}
	for _, port := range ports(l.publish) {
		f, err := listenLoopback(port)
		if err != nil {
			return err
		}
		add("publish:"+strconv.Itoa(int(port)), f)
	}
	return configure(l.control, cfg, files, l.dataPathError)
}

// dataPathError explains why the data path does not talk.
func (l *launch) dataPathError(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET) {
		<-l.dead
		return fmt.Errorf("data path ended: %v", l.dataPath.ProcessState)
	}
	return err
}

// listenLoopback opens the host's side of a published port.
func listenLoopback(port uint16) (*os.File, error) {
	ln, err := net.Listen("tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(int(port))))
	if err != nil {
		return nil, fmt.Errorf("publish port %d: %w", port, err)
	}
	defer ln.Close()
	return ln.(*net.TCPListener).File()
}

// maxRowsShown bounds the summary that nobody asked for.
const maxRowsShown = 100

// shownRows are the rows to print, and how many more there are.
func (l *launch) shownRows(rows []event.Row) (shown []event.Row, more int) {
	if l.summary || len(rows) <= maxRowsShown {
		return rows, 0
	}
	return rows[:maxRowsShown], len(rows) - maxRowsShown
}

// announce says once what CMD does not get, and what it gets that few people mean to give.
func (l *launch) announce() {
	if l.quiet {
		return
	}
	if hidden := l.hiddenArg(); hidden != "" {
		l.ui.sayf("%s is not visible inside; show it with --share %s:ro", hidden, filepath.Dir(hidden))
	}
	if dir := wholeHome(l.spec.HomePath, l.spec.Shares); dir != "" {
		l.ui.sayf("--share %s shows your whole home to %s, keys and what your shell runs included; share a directory in it", dir, l.app)
	}
	if l.profile != "engine" && slices.Contains(engines, filepath.Base(l.command[0])) {
		l.ui.sayf("%s runs no containers in profile %s; try --profile engine", filepath.Base(l.command[0]), l.profile)
	}
	told := worthTelling(l.withheld)
	if len(told) == 0 {
		return
	}
	const shown = 6
	text := ""
	for i, name := range told[:min(len(told), shown)] {
		if i > 0 {
			text += ", "
		}
		text += name
	}
	if len(told) > shown {
		text += fmt.Sprintf(" and %d more", len(told)-shown)
	}
	l.ui.sayf("withheld from %s: %s; pass one on with --env NAME", l.app, text)
}

// forwarded are the signals that go on to CMD.
var forwarded = []os.Signal{syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGWINCH, syscall.SIGCONT}

// wait forwards signals until CMD has ended, and returns its status. When the data path dies first, CMD is killed: it
// must not run on without anybody who sees what it sends.
func (l *launch) wait(signals <-chan os.Signal) int {
	type result struct {
		status sandbox.ExitStatus
		err    error
	}
	ended := make(chan result, 1)
	go func() {
		s, err := l.box.Wait()
		ended <- result{s, err}
	}()
	dead := l.dead
	passedOn := map[syscall.Signal]bool{}
	for {
		select {
		case sig := <-signals:
			passedOn[sig.(syscall.Signal)] = true
			if !l.terminalDelivers(sig) {
				l.box.Signal(sig)
			}
		case <-dead:
			dead = nil
			l.ui.warnf("the data path ended (%v): %s is killed, nothing it sends would be seen", l.dataPath.ProcessState, l.app)
			go l.box.Close()
		case r := <-ended:
			if r.status.Signal != 0 {
				l.stopped = passedOn[r.status.Signal]
				return 128 + int(r.status.Signal)
			}
			if r.err != nil {
				return 128 + int(syscall.SIGKILL)
			}
			return r.status.Code
		}
	}
}

// terminalDelivers reports whether CMD has this signal from the terminal already: ^C and ^\ go to the whole foreground
// process group, and CMD is in ours.
func (l *launch) terminalDelivers(sig os.Signal) bool {
	if sig != syscall.SIGINT && sig != syscall.SIGQUIT && sig != syscall.SIGWINCH {
		return false
	}
	group, err := unix.IoctlGetInt(0, unix.TIOCGPGRP)
	return err == nil && group == unix.Getpgrp()
}

// finish lets the data path drain and end, and returns its report; nil when there is none.
func (l *launch) finish(status int) *dataPathReport {
	if l.stdoutDone != nil {
		l.stdoutDone()
	}
	l.sending.Lock()
	defer l.sending.Unlock()
	rep := &dataPathReport{}
	if err := l.control.ask(order{Finish: true, Status: status, Grace: drainGrace}, rep, reportTimeout); err != nil {
		return nil
	}
	return rep
}

// conclude says and writes what is left to say, and turns it into weir's exit status.
func (l *launch) conclude(status int, rep *dataPathReport) error {
	if rep == nil {
		if l.failOn != "" && status == 0 { // nobody knows that it did not happen
			status = statusFailOn
		}
		return exitError{status, errors.New("the data path ended early: its last events are missing")}
	}
	if l.summary || !l.quiet && term.IsTerminal(2) && !l.json {
		width, _, _ := term.GetSize(2)
		rows, more := l.shownRows(rep.Rows)
		if l.summary && len(rows) == 0 {
			l.ui.sayf("nothing to sum up: no flow, and nothing denied")
		}
		event.WriteTable(os.Stderr, rows, event.TableOptions{Color: l.ui.color, Width: width})
		if more > 0 {
			l.ui.sayf("%d rows more; --summary shows them all", more)
		}
	}
	if rep.Dropped > 0 {
		l.ui.warnf("%d events could not be written", rep.Dropped)
	}
	if err := rememberHosts(l.app, rep.NewHosts); err != nil {
		l.ui.warnf("%v", err)
	}
	if l.learn != "" {
		if err := writeWhole(l.learn, []byte(rep.Learned), 0o644); err != nil {
			return exitError{max(status, 1), fmt.Errorf("write learned policy: %w", err)}
		}
		if !l.quiet {
			l.ui.sayf("learned policy is in %s; review it, then: weir run -f %s --name %s -- CMD ARG...", l.learn, l.learn, l.app)
		}
	}
	if rep.failed(l.failOn) && (status == 0 || l.stopped) {
		return exitError{status: statusFailOn}
	}
	if status != 0 {
		return exitError{status: status}
	}
	return nil
}

// close takes everything down that still stands.
func (l *launch) close() {
	if l.box != nil {
		l.box.Close()
	}
	if l.netns != nil {
		l.netns.Close()
	}
	if l.control != nil {
		l.control.Close()
	}
	if l.dataPath != nil && l.dataPath.Process != nil {
		select {
		case <-l.dead:
		case <-time.After(time.Second):
			l.dataPath.Process.Kill()
			<-l.dead
		}
	}
	l.edge.end()
}

// newSandboxID is short enough to read aloud; it only tells the lines of one log apart.
func newSandboxID() string {
	b := make([]byte, 4)
	rand.Read(b)
	return hex.EncodeToString(b)
}

// writeWhole replaces path by content, or leaves it as it was.
func writeWhole(path string, content []byte, mode fs.FileMode) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	if _, err = tmp.Write(content); err == nil {
		err = tmp.Chmod(mode)
	}
	if cerr := tmp.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	return err
}
