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

// identify fills in who the namespace s belongs to.
func (f *Finder) identify(c *Container, s *space) error {
	first, err := s.first()
	if err != nil {
		if s.mount == "" {
			return err
		}
		c.mount = s.mount
		f.name(c, identity{claim: claim{RuntimeNone, mountID(s)}, name: mountName(s)})
		return nil
	}
	defer first.close()
	c.PID, c.started, c.Process, c.mount = first.pid, first.started, printable(first.exe(), maxText), s.mount
	key := identityKey{c.Cookie, first.pid, first.started}
	who, ok := f.known[key]
	if !ok {
		complete := false
		if who, complete, err = f.look(first, s); err != nil {
			return err
		}
		if complete {
			if len(f.known) >= maxKnown {
				clear(f.known)
			}
			f.known[key] = who
		}
	}
	f.name(c, who)
	c.Resolvers = f.waiting.resolvers(first)
	return nil
}

func (f *Finder) name(c *Container, who identity) {
	c.Runtime, c.ID, c.Name, c.Image, c.Labels = who.runtime, who.id, who.name, who.image, maps.Clone(who.labels)
	if c.Name == "" {
		c.Name = c.ID[:min(len(c.ID), 12)]
	}
}

// look finds out whose process it is. complete says that nothing more is to be learnt later: an engine names it and has
// written everything down.
func (f *Finder) look(first *process, s *space) (who identity, complete bool, err error) {
	groups, err := first.read("cgroup", maxCgroup)
	if err != nil {
		return identity{}, false, fmt.Errorf("read control group: %w", ErrGone)
	}
	found, ok := parseCgroup(groups)
	told, monitored := first.monitor(s.inode)
	switch {
	case ok && monitored && found.id != told.id:
		return identity{}, false, fmt.Errorf("%w: control group and conmon name different containers", ErrUnknown)
	case !ok && monitored:
		found = claim{RuntimePodman, told.id}
	case !ok:
		return identity{claim: claim{RuntimeNone, mountID(s)}, name: mountName(s)}, false, nil
	}
	who, complete = f.recorded(found, told)
	return who, complete, nil
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
