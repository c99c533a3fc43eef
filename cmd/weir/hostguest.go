//go:build linux && !client

package main

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weir-dev/weir/internal/attribution"
	"github.com/weir-dev/weir/internal/container"
	"github.com/weir-dev/weir/internal/lockdown"
	"github.com/weir-dev/weir/internal/stub"
	"github.com/weir-dev/weir/sandbox"
	"github.com/weir-dev/weir/tproxy"
	"github.com/weir-dev/weir/tproxy/rules"
)

// hostProcess is the data path of one container.
type hostProcess struct {
	container container.Container
	cmd       *exec.Cmd
	control   *controlConn
	dead      chan struct{}
}

func (p *hostProcess) port() string { return p.container.Port.Name }

// stillFits reports whether the data path is the right one for who is there now.
func (p *hostProcess) stillFits(now container.Container) bool {
	was := p.container
	return was.Cookie == now.Cookie && was.ID == now.ID && was.App() == now.App() && was.PID == now.PID && was.Port == now.Port &&
		slices.Equal(was.MAC, now.MAC) && slices.Equal(was.Addresses, now.Addresses) && reflect.DeepEqual(was.Resolvers, now.Resolvers)
}

// sandboxOf is the short id of a container.
func sandboxOf(c container.Container) string {
	if c.Runtime == container.RuntimeNone {
		return fmt.Sprintf("%x", c.Cookie)
	}
	return c.ID[:min(len(c.ID), 12)]
}

// startGuest opens the door for a container: its data path first, the rules that lead there last.
func (u *hostUp) startGuest(c container.Container) (p *hostProcess, err error) {
	policy, known := u.policyOf(c.App(), u.text, u.file)
	if _, err := policy.make(nil); err != nil {
		return nil, err
	}
	if !known && !u.quiet {
		u.ui.warnf("%s says nothing about %s: all it does is denied", u.policyFile, c.App())
	}
	own, asked := u.resolversOf(c)
	p = &hostProcess{container: c, dead: make(chan struct{})}
	control, remote, err := newControlPair(maxMessage)
	if err != nil {
		return nil, err
	}
	defer remote.Close()
	p.control = control
	begun := p // returning an error leaves p nil
	defer func() {
		if err != nil {
			u.rules.Remove(begun.port())
			begun.end()
		}
	}()
	if p.cmd, err = execDataPath(remote, p.dead, lockdown.HostCapabilities()...); err != nil {
		return nil, err
	}
	sockets, err := u.rules.Add(rules.Guest{Port: c.Port.Name, Index: c.Port.Index, MAC: c.MAC, Addrs: c.Addresses, Resolvers: own})
	if err != nil {
		return nil, err
	}
	cfg := dataPathConfig{
		App: c.App(), Sandbox: sandboxOf(c), Command: []string{c.Image}, Door: "tproxy", Link: sandbox.LinkInfo{Kind: "veth"},
		IPv6:     hostHasIPv6() && slices.ContainsFunc(c.Addresses, func(a netip.Addr) bool { return a.Is6() && !a.IsLinkLocalUnicast() }),
		HostIPv6: hostHasIPv6(),
		Policy:   policy, EventsPath: u.log, Quiet: u.quiet, Color: u.ui.color, LogLevel: u.logLevel,
		Known: knownHosts(c.App()),
		Host:  &hostGuest{Port: c.Port.Name, Addrs: c.Addresses, Resolvers: own, Asked: asked, Marks: u.rules.Marks()},
	}
	if err := p.configure(cfg, sockets, u.log); err != nil {
		return nil, err
	}
	go u.awaitDeath(p)
	return p, nil
}

// configure sends the data path all it needs and waits until it is ready.
func (p *hostProcess) configure(cfg dataPathConfig, sockets []rules.Socket, log string) error {
	var files []*os.File
	defer func() { closeAll(files) }()
	for _, s := range sockets {
		f := os.NewFile(uintptr(s.FD), s.Kind)
		cfg.Files, files = append(cfg.Files, s.Kind), append(files, f)
		if s.Kind != rules.KindQueue {
			continue
		}
		verdicts, err := giveVerdicts(f, s.Queue)
		if err != nil {
			return err
		}
		cfg.Files, files = append(cfg.Files, "verdicts"), append(files, verdicts)
	}
	conn, errands, err := newControlPair(maxErrand)
	if err != nil {
		return err
	}
	cfg.Files, files = append(cfg.Files, "errands"), append(files, errands)
	r := runner{log: log}
	if path, err := filepath.EvalSymlinks(log); err == nil {
		r.log = path
	}
	go func() {
		defer conn.Close()
		r.serve(conn)
	}()
	owners, err := p.serveOwners()
	if err != nil {
		return err
	}
	cfg.Files, files = append(cfg.Files, "owners"), append(files, owners)
	return configure(p.control, cfg, files, p.why)
}

// serveOwners tells the data path which processes of the container its flows belong to.
func (p *hostProcess) serveOwners() (remote *os.File, err error) {
	local, remote, err := newOwnerPair()
	if err != nil {
		return nil, err
	}
	finder := attribution.New(p.container.PID, nil)
	find := finder.Find
	if p.container.PID == 0 { // a network namespace without a process
		find = func(string, netip.AddrPort, netip.AddrPort) (attribution.Process, bool) {
			return attribution.Process{}, false
		}
	}
	go func() {
		defer local.Close()
		defer finder.Close()
		answerOwners(local, find)
	}()
	return remote, nil
}

// giveVerdicts gives the verdicts on held SYNs that the data path may not give itself: a message is the packet's id, four
// octets, big-endian, and 1 for an accept. It ends with the other end of the socket, which is returned.
func giveVerdicts(queue *os.File, number uint16) (remote *os.File, err error) {
	fd, err := unix.FcntlInt(queue.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("keep queue: %w", err)
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("make verdict socket: %w", err)
	}
	kept, local := os.NewFile(uintptr(fd), "queue"), os.NewFile(uintptr(pair[0]), "verdicts")
	unix.SetNonblock(pair[1], true)
	go func() {
		defer kept.Close()
		defer local.Close()
		for b := make([]byte, verdictSize+1); ; {
			n, err := local.Read(b)
			if err != nil || n == 0 {
				return
			}
			if n == verdictSize {
				tproxy.GiveVerdict(kept, number, binary.BigEndian.Uint32(b), b[4] == 1)
			}
		}
	}()
	return os.NewFile(uintptr(pair[1]), "verdicts"), nil
}

const verdictSize = 5

// why says how a data path ended that does not talk.
func (p *hostProcess) why(err error) error {
	select {
	case <-p.dead:
		return fmt.Errorf("data path ended: %v", p.cmd.ProcessState)
	case <-time.After(time.Second):
		return err
	}
}

// againAfter is how long a container waits for another data path after its own has died, or could not be started.
const againAfter = time.Second

// awaitDeath sees to a data path that ends before it is to. The door is shut for its container, and nobody else's is touched:
// what the container sends may have been the cause.
func (u *hostUp) awaitDeath(p *hostProcess) {
	<-p.dead
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.guests[p.port()] != p {
		return // it was to end
	}
	u.ui.warnf("data path of %s ended: %v: it has no way out until there is another", p.container, p.cmd.ProcessState)
	u.remove(p)
	time.AfterFunc(againAfter, func() { u.again(p.port()) })
}

// again starts a data path for the container at the port, if it still has none.
func (u *hostUp) again(port string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if c, ok := u.there[port]; ok && u.guests[port] == nil {
		u.add(c)
	}
}

// end lets the data path write its last events and end.
func (p *hostProcess) end() {
	if p.cmd != nil {
		var rep dataPathReport
		if p.control.ask(order{Finish: true}, &rep, reportTimeout) == nil {
			rememberHosts(p.container.App(), rep.NewHosts) // without it they are told of again
		}
	}
	p.control.Close()
	if p.cmd == nil {
		return
	}
	select {
	case <-p.dead:
	case <-time.After(time.Second):
		p.cmd.Process.Kill()
		<-p.dead
	}
}

// resolversOf are the servers that a container's questions go to, and those of them that this host runs on the bridge. The
// container may have written its resolv.conf itself: whatever is in there, only these and the host's own resolvers are asked. A server on the
// container's own loopback (Docker has one there) sends its questions on to the host's nameservers, from where the container
// is.
func (u *hostUp) resolversOf(c container.Container) (own, asked []netip.Addr) {
	add := func(a netip.Addr) {
		if !a.IsLoopback() && !a.IsLinkLocalUnicast() && !slices.Contains(own, a) {
			own = append(own, a)
		}
	}
	for _, r := range c.Resolvers {
		if !r.IsLoopback() {
			add(r)
			continue
		}
		for _, server := range (&stub.Host{}).Servers() {
			add(server)
		}
	}
	link, err := net.InterfaceByName(u.target.name())
	if err != nil {
		return own, nil
	}
	addrs, err := link.Addrs()
	if err != nil {
		return own, nil
	}
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok {
			if ip, ok := netip.AddrFromSlice(n.IP); ok && slices.Contains(own, ip.Unmap()) {
				asked = append(asked, ip.Unmap())
			}
		}
	}
	return own, asked
}
