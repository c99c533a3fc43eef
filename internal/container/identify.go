//go:build linux

package container

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// maxKnown bounds the identities that are remembered.
const maxKnown = 4 * maxPorts

// identity is what does not change while a container lives.
type identity struct {
	claim
	name, image string
	labels      map[string]string
}

// identify fills in who the namespace s belongs to: the first of its processes that an engine started, as a process of the
// host may have gone there too. Nothing that a container starts can precede its own first process. Where no engine has one
// it is the first of all.
func (f *Finder) identify(c *Container, s *space) error {
	c.mount = s.mount
	nobody := identity{claim: claim{RuntimeNone, mountID(s)}, name: mountName(s)}
	members := s.members()
	defer func() {
		for _, p := range members {
			p.close()
		}
	}()
	if len(members) == 0 {
		if s.mount == "" {
			return fmt.Errorf("find first process: %w", ErrGone)
		}
		f.fill(c, nobody)
		return nil
	}
	first, who := members[0], nobody
	for _, p := range members {
		found, ok, err := f.recall(c.Cookie, p, s)
		if err != nil {
			return err
		}
		if ok {
			first, who = p, found
			break
		}
	}
	c.PID, c.started, c.Process = first.pid, first.started, printable(first.exe(), maxText)
	f.fill(c, who)
	c.Resolvers = f.waiting.resolvers(first)
	return nil
}

// recall is look with a memory.
func (f *Finder) recall(cookie uint64, p *process, s *space) (identity, bool, error) {
	key := identityKey{cookie, p.pid, p.started}
	if who, ok := f.known[key]; ok {
		return who, true, nil
	}
	who, complete, ok, err := f.look(p, s)
	if complete {
		if len(f.known) >= maxKnown {
			clear(f.known)
		}
		f.known[key] = who
	}
	return who, ok, err
}

func (f *Finder) fill(c *Container, who identity) {
	c.Runtime, c.ID, c.Name, c.Image, c.Labels = who.runtime, who.id, who.name, who.image, maps.Clone(who.labels)
	if c.Name == "" {
		c.Name = c.ID[:min(len(c.ID), 12)]
	}
}

// look finds out which engine's container the process is in; ok is false if in none's. complete says that the engine has
// written everything down, so that nothing more is to be learnt later.
func (f *Finder) look(p *process, s *space) (who identity, complete, ok bool, err error) {
	groups, err := p.read("cgroup", maxCgroup)
	if err != nil {
		return identity{}, false, false, nil // it has ended
	}
	found, grouped := parseCgroup(groups)
	told, monitored := p.monitor(s.inode)
	switch {
	case grouped && monitored && found.id != told.id:
		return identity{}, false, false, fmt.Errorf("%w: control group and conmon name different containers", ErrUnknown)
	case !grouped && monitored:
		found = claim{RuntimePodman, told.id}
	case !grouped:
		return identity{}, false, false, nil
	}
	who, complete = f.recorded(found, told)
	return who, complete, true, nil
}

// mountName is the name of a namespace that no engine claims: that of its mount if only root can have given it.
func mountName(s *space) string {
	var st unix.Stat_t
	if s.mount != "" && unix.Lstat(filepath.Dir(s.mount), &st) == nil && st.Uid == 0 && st.Mode&0o022 == 0 {
		return printable(filepath.Base(s.mount), maxText)
	}
	return "netns-" + strconv.FormatUint(s.inode, 10)
}

func mountID(s *space) string { return "net:[" + strconv.FormatUint(s.inode, 10) + "]" }

// Namespace says who is in the network namespace at path (/proc/PID/ns/net, /run/netns/NAME). Its Port is empty, and so are
// Interface, MAC and Addresses. The error is [ErrGone] if there is no namespace at path.
func (f *Finder) Namespace(path string) (Container, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	ns, err := openNamespace(path, 0)
	if err != nil {
		return Container{}, err
	}
	defer ns.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(ns.Fd()), &st); err != nil {
		return Container{}, fmt.Errorf("look at namespace %q: %w", path, err)
	}
	fd, cookie, err := f.socketIn(ns)
	if err != nil {
		return Container{}, err
	}
	unix.Close(fd)
	seen, err := f.seen()
	if err != nil {
		return Container{}, err
	}
	s := seen[st.Ino]
	if s == nil {
		return Container{}, fmt.Errorf("look at namespace %q: %w: it is our own", path, ErrUnknown)
	}
	c := Container{Cookie: cookie, Port: Port{NSID: -1}}
	if err := f.identify(&c, s); err != nil {
		return Container{}, err
	}
	return c, nil
}

// stillThere says whether c's process, or its mount, shows the namespace that it had.
func (f *Finder) stillThere(c Container) error {
	path := c.mount
	if c.PID != 0 {
		p, err := openProcess(c.PID)
		if err != nil || p.started != c.started {
			if err == nil {
				p.close()
			}
			return ErrGone
		}
		defer p.close()
		path = "/proc/self/fd/" + strconv.Itoa(p.dir) + "/ns/net"
	}
	ns, err := openNamespace(path, 0)
	if err != nil {
		return ErrGone
	}
	defer ns.Close()
	if c.Port.Index != 0 {
		if id, err := f.route.GetNetNsIdByFd(int(ns.Fd())); err != nil || id != c.Port.NSID {
			return ErrGone
		}
	}
	fd, cookie, err := f.socketIn(ns)
	if err != nil {
		return errors.Join(ErrGone, err)
	}
	unix.Close(fd)
	if cookie != c.Cookie {
		return ErrGone
	}
	return nil
}

// maxText bounds a name, an image or a label's value, in octets.
const maxText = 256

// printable returns s without what could disturb a terminal or a log, cut to limit octets.
func printable(s string, limit int) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, s[:min(len(s), limit)])
}
