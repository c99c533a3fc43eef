//go:build linux

package sandbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// setupTimeout bounds the time init may take until it is ready: a share on a dead network file system must not hang us.
const setupTimeout = 30 * time.Second

// Sandbox is one running instance. Its methods may be called from any goroutine.
type Sandbox struct {
	ctl  *control
	proc *os.Process
	dead chan struct{} // closed by keep when init, and so everything inside, is gone

	terminal *terminal
	command  string

	mu        sync.Mutex
	link      *os.File // this and those below until the caller asks for them
	linkInfo  LinkInfo
	held      []string
	listeners map[uint16][]*os.File
	sockets   map[string][]*os.File
	dial      *os.File
	diag      *os.File
	netns     *os.File       // nil: init's own
	streams   []int          // CMD's, with profile engine until Release
	outputs   sync.WaitGroup // pipes of these that are still read
	released  bool
	closed    bool

	started chan error    // answer to opGo: one value, or closed without
	heard   chan struct{} // closed by listen when init has said all
	exit    *ExitStatus
}

// ExitStatus is how CMD ended: by exit with Code, or by Signal (then Code is 0).
type ExitStatus struct {
	Code   int
	Signal syscall.Signal
}

// Start makes the namespaces, the link, the addresses and the mounts. CMD is not started: see Release.
// On error nothing is left behind; set-up failures are *SetupError.
func Start(spec Spec) (*Sandbox, error) {
	spec = spec.withDefaults()
	if err := spec.check(); err != nil {
		return nil, err
	}
	s := &Sandbox{
		command:  spec.Command[0],
		dead:     make(chan struct{}),
		started:  make(chan error, 1),
		heard:    make(chan struct{}),
		terminal: findTerminal(spec.Stdin, spec.Stdout, spec.Stderr),
	}
	if err := s.startInit(spec); err != nil {
		s.terminal.close()
		return nil, err
	}
	if err := s.awaitReady(); err != nil {
		s.Close()
		return nil, err
	}
	go s.listen()
	return s, nil
}

// orders is what init reads from its second extra descriptor.
type orders struct {
	Spec           Spec
	Sockets        []string // path-named UNIX sockets of the host's network namespace
	SharedTerminal bool
	AsRoot         bool  // the caller is the host's root
	Dir            inode `json:",omitzero"` // of Spec.Dir; init looks before it changes roots
	Umask          int   `json:",omitempty"`
	Ignored        []int `json:",omitempty"` // signals that the caller has told its children to ignore; profile engine
}

// startInit clones init into its namespaces. SelfExe is executed before any mount changes, so its path is the host's.
func (s *Sandbox) startInit(spec Spec) error {
	fail := func(err error) error { return &SetupError{Step: StepInit, Err: err} }
	sockets, err := hostSockets()
	if err != nil {
		return fail(err)
	}
	payload, err := sealedJSON(orders{Spec: spec, Sockets: sockets, SharedTerminal: s.terminal != nil, AsRoot: os.Geteuid() == 0})
	if err != nil {
		return fail(err)
	}
	defer payload.Close()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fail(fmt.Errorf("make control socket: %w", err))
	}
	theirs := os.NewFile(uintptr(pair[1]), "control")
	defer theirs.Close()
	if s.ctl, err = newControl(pair[0]); err != nil {
		return fail(err)
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return fail(err)
	}
	defer null.Close()

	files := []*os.File{spec.Stdin, spec.Stdout, spec.Stderr, theirs, payload}
	for i, f := range files {
		if f == nil {
			files[i] = null
		}
	}
	attr := &os.ProcAttr{Dir: "/", Env: []string{}, Files: files, Sys: namespaces()}
	if spec.isEngine() {
		if err := s.keepStreams(spec, null); err != nil {
			return fail(err)
		}
		attr.Sys.UidMappings, attr.Sys.GidMappings, attr.Sys.AmbientCaps = nil, nil, engineCaps() // the ids come by mapIDs
		files[0], files[1] = null, null
		if !spec.Debug {
			files[2] = null
		}
	}
	started := make(chan error)
	go s.keep(spec.SelfExe, attr, started)
	if err := <-started; err != nil {
		s.ctl.conn.Close()
		return namespaceError(spec.SelfExe, err)
	}
	if spec.isEngine() {
		if err := s.mapIDs(spec); err != nil {
			s.Close()
			return err
		}
	}
	return nil
}

// namespaces says what init is cloned into, as the calling user.
func namespaces() *syscall.SysProcAttr {
	uid, gid := os.Geteuid(), os.Getegid()
	return &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWNET |
			syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS | syscall.CLONE_NEWCGROUP,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: uid, HostID: uid, Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: gid, HostID: gid, Size: 1}},
		AmbientCaps: initCaps(),
		Pdeathsig:   syscall.SIGKILL,
	}
}

// namespaceError tells a kernel that refuses namespaces from a binary that is not there.
func namespaceError(exe string, err error) error {
	e := &SetupError{Step: StepNamespaces, Err: err}
	var errno syscall.Errno
	if errors.As(err, &errno) {
		e.Err = errno
		if errno == syscall.ENOENT || errno == syscall.ENOEXEC {
			e.Step, e.Path = StepInit, exe
		}
	}
	return e
}

// keep is the goroutine whose thread forked init. PDEATHSIG follows that thread, so it stays until init is gone.
func (s *Sandbox) keep(exe string, attr *os.ProcAttr, started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	p, err := os.StartProcess(exe, []string{initName}, attr)
	if err != nil {
		started <- err
		return
	}
	s.proc = p
	started <- nil
	p.Wait() // only that it ended matters: CMD's status comes by the control socket
	s.terminal.restore()
	close(s.dead)
}

// initCaps are the capabilities init works with, all of them over the sandbox's own namespaces only.
func initCaps() []uintptr {
	return []uintptr{
		unix.CAP_SYS_ADMIN,        // mounts, host name, the second network namespace of a veth link
		unix.CAP_NET_ADMIN,        // link, addresses, routes
		unix.CAP_NET_RAW,          // the AF_PACKET socket of a veth link
		unix.CAP_NET_BIND_SERVICE, // listeners for host ports below 1024
		unix.CAP_SYS_RESOURCE,     // max_user_namespaces
		unix.CAP_SETPCAP,          // bounding set, securebits
	}
}

// awaitReady reads the first messages of init: the link and all that comes with it, or why there is none. With profile
// engine these come before the walls are complete, in a message of their own.
func (s *Sandbox) awaitReady() error {
	s.ctl.conn.SetReadDeadline(time.Now().Add(setupTimeout))
	defer s.ctl.conn.SetReadDeadline(time.Time{})
	for linked := false; ; linked = true {
		m, fds, err := s.ctl.receive()
		switch {
		case err != nil:
			return &SetupError{Step: StepInit, Err: fmt.Errorf("wait for set-up: %w", err)}
		case m.Op == opFailed && m.Failure != nil:
			closeAll(fds)
			return m.Failure.err()
		case m.Op == opReady && linked && len(fds) == 0:
			return nil
		case m.Op != opReady && m.Op != opLink || linked || len(fds) != m.descriptors():
			closeAll(fds)
			return &SetupError{Step: StepInit, Err: fmt.Errorf("unexpected message %q with %d descriptors", m.Op, len(fds))}
		}
		s.adopt(m, fds)
		if m.Op == opReady {
			return nil
		}
	}
}

// descriptors is how many come along with the link.
func (m message) descriptors() int {
	n := 1 + len(m.Ports) + len(m.Sockets)
	for _, one := range []bool{m.Link.Kind != DoorTProxy, m.Diag, m.NetNS} {
		if one {
			n++
		}
	}
	return n
}

// adopt takes over what comes along with the link.
func (s *Sandbox) adopt(m message, fds []int) {
	next := func(name string) *os.File {
		f := os.NewFile(uintptr(fds[0]), name)
		fds = fds[1:]
		return f
	}
	s.linkInfo, s.dial, s.held = m.Link, next("dial"), m.Held
	if m.Link.Kind != DoorTProxy {
		s.link = next("link")
	}
	if m.Diag {
		s.diag = next("diag")
	}
	if m.NetNS {
		s.netns = next("netns")
	}
	s.listeners = make(map[uint16][]*os.File)
	for _, port := range m.Ports {
		s.listeners[port] = append(s.listeners[port], next(fmt.Sprintf("host-port-%d", port)))
	}
	for _, kind := range m.Sockets {
		if s.sockets == nil {
			s.sockets = make(map[string][]*os.File)
		}
		s.sockets[kind] = append(s.sockets[kind], next(kind))
	}
}

// Link returns the host's end of the link, non-blocking. The caller owns the file and closes it; when its last copy is
// closed the sandbox has no network. A second call returns nil.
func (s *Sandbox) Link() (*os.File, LinkInfo) { return take(s, &s.link), s.linkInfo }

// HostPortListeners returns the listening TCP sockets inside, by port. The caller owns them. A second call returns nil.
func (s *Sandbox) HostPortListeners() map[uint16][]*os.File { return take(s, &s.listeners) }

// DialSocket returns a SOCK_SEQPACKET socket through which connections to the sandbox's loopback are opened.
// A request is the port in 2 bytes, big-endian; an answer is the port and an errno, 2 bytes each, big-endian, with the
// connected socket as SCM_RIGHTS when the errno is 0. 127.0.0.1 is tried before ::1. Answers may come in another order
// than requests; at most 64 are worked on at a time. The caller owns the file. A second call returns nil.
func (s *Sandbox) DialSocket() *os.File { return take(s, &s.dial) }

// DiagSocket returns a NETLINK_SOCK_DIAG socket of the sandbox's network namespace, nil if the kernel has none.
// The caller owns the file. A second call returns nil.
func (s *Sandbox) DiagSocket() *os.File { return take(s, &s.diag) }

// NetNS opens the sandbox's network namespace. The caller owns the file. It is for one call.
func (s *Sandbox) NetNS() (*os.File, error) {
	if f := take(s, &s.netns); f != nil {
		return f, nil
	}
	f, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", s.InitPID()))
	if err != nil {
		return nil, fmt.Errorf("open network namespace: %w", err)
	}
	return f, nil
}

// take empties *field and returns what was in it.
func take[T any](s *Sandbox, field *T) T {
	s.mu.Lock()
	defer s.mu.Unlock()
	var zero T
	v := *field
	*field = zero
	return v
}

// InitPID is the pid of the sandbox's PID 1 as the caller sees it.
func (s *Sandbox) InitPID() int { return s.proc.Pid }

// Close kills everything in the sandbox, waits until it is gone and closes the files that were not asked for.
// It is idempotent.
func (s *Sandbox) Close() error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.proc.Kill() // an error means that it is dead already
	<-s.dead
	s.ctl.conn.Close()
	for _, f := range []*os.File{take(s, &s.link), take(s, &s.dial), take(s, &s.diag), take(s, &s.netns)} {
		f.Close() // of a nil *os.File is an error and nothing else
	}
	closeAll(take(s, &s.streams))
	for _, fs := range take(s, &s.listeners) {
		closeFiles(fs)
	}
	for _, fs := range take(s, &s.sockets) {
		closeFiles(fs)
	}
	return nil
}

// sealedJSON writes v into memory that init inherits: nothing to read in its arguments or environment.
func sealedJSON(v any) (*os.File, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode spec: %w", err)
	}
	fd, err := unix.MemfdCreate("weir-spec", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make spec file: %w", err)
	}
	f := os.NewFile(uintptr(fd), "spec")
	if _, err := f.WriteAt(b, 0); err != nil {
		f.Close()
		return nil, fmt.Errorf("write spec: %w", err)
	}
	return f, nil
}

func closeFiles(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}
