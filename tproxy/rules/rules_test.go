//go:build linux

package rules

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// insideVariable tells the test binary that it is in namespaces of its own.
const insideVariable = "WEIR_RULES_INSIDE"

var door = Inside{
	Addr4: netip.MustParseAddr("10.77.0.2"), Gateway4: netip.MustParseAddr("10.77.0.1"),
	Addr6: netip.MustParseAddr("fd77::2"), Gateway6: netip.MustParseAddr("fd77::1"), Port: 1077, LogGroup: 77,
}

var (
	sockets  = map[string][]*os.File{}
	setupErr error
)

func TestMain(m *testing.M) {
	if os.Getenv(insideVariable) == "" {
		os.Exit(enter())
	}
	list, err := door.Open()
	setupErr = err
	for _, s := range list {
		sockets[s.Kind] = append(sockets[s.Kind], os.NewFile(uintptr(s.FD), s.Kind))
	}
	os.Exit(m.Run())
}

func enter() int {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), insideVariable+"=1")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	}
	err := cmd.Run()
	if cmd.ProcessState == nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return cmd.ProcessState.ExitCode()
}

func TestOpen(t *testing.T) {
	if setupErr != nil {
		t.Fatal(setupErr)
	}
	for _, kind := range []string{KindTCP, KindUDP, KindICMP, KindDNS, KindDNS2} {
		if n := len(sockets[kind]); n != 2 {
			t.Errorf("%d sockets of kind %s, want one of each family", n, kind)
		}
	}
}

// TestStream: a connection to anywhere arrives at the listener with its destination as local address.
func TestStream(t *testing.T) {
	for i, to := range []string{"198.51.100.10:443", "[2001:db8::1]:443"} {
		ln, err := net.FileListener(sockets[KindTCP][i])
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		got := make(chan string, 1)
		go func() {
			c, err := ln.Accept()
			if err != nil {
				got <- err.Error()
				return
			}
			defer c.Close()
			got <- c.LocalAddr().String()
			c.Write([]byte("hello"))
		}()
		c, err := net.DialTimeout("tcp", to, 2*time.Second)
		if err != nil {
			t.Fatalf("dial %s: %v", to, err)
		}
		b := make([]byte, 5)
		if _, err := c.Read(b); err != nil {
			t.Errorf("read from %s: %v", to, err)
		}
		c.Close()
		if at := <-got; at != to {
			t.Errorf("arrived at %s, want %s", at, to)
		}
	}
}

// TestDropped: what the door does not carry is dropped, and said.
func TestDropped(t *testing.T) {
	for _, c := range []struct {
		name, want string
		send       func() error
	}{
		{"a forged source", DropSource, func() error { return sendFrom("192.0.2.66:0", "198.51.100.10:443") }},
		{"loopback as a source", DropSource, func() error { return sendFrom("127.0.0.1:0", "198.51.100.10:443") }},
		{"multicast", DropMulticast, func() error { return sendFrom("10.77.0.2:0", "240.0.0.251:5353") }},
		{"another protocol", DropProtocol, func() error { return raw("198.51.100.10", 253) }},
		{"ping", DropProtocol, func() error { return raw("198.51.100.10", unix.IPPROTO_ICMP) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := c.send(); err != nil {
				t.Fatal(err)
			}
			b := make([]byte, 4096)
			f := sockets[KindLog][0]
			f.SetReadDeadline(time.Now().Add(2 * time.Second))
			n, err := f.Read(b)
			if err != nil {
				t.Fatalf("nothing was said: %v", err)
			}
			if !strings.Contains(string(b[:n]), c.want+"\x00") {
				t.Errorf("said %q, want %s", b[:n], c.want)
			}
		})
	}
}

func sendFrom(from, to string) error {
	d := net.Dialer{LocalAddr: net.UDPAddrFromAddrPort(netip.MustParseAddrPort(from))}
	c, err := d.Dial("udp", to)
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.Write([]byte("x"))
	return err
}

func raw(to string, protocol int) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW, protocol)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Sendto(fd, []byte{8, 0, 0xf7, 0xff, 0, 0, 0, 0}, 0, &unix.SockaddrInet4{Addr: netip.MustParseAddr(to).As4()})
}

// TestOwn: the program talks to itself without the door.
func TestOwn(t *testing.T) {
	for _, at := range []string{"127.0.0.1:0", "10.77.0.2:0", "[::1]:0"} {
		ln, err := net.Listen("tcp", at)
		if err != nil {
			t.Fatal(err)
		}
		c, err := net.DialTimeout("tcp", ln.Addr().String(), 2*time.Second)
		if err != nil {
			t.Errorf("dial own %s: %v", at, err)
			continue
		}
		c.Close()
		ln.Close()
	}
	if _, err := net.DialTimeout("tcp", "127.0.0.1:1077", 2*time.Second); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("the listener on loopback: %v, want refused", err)
	}
}
