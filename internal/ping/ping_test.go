package ping

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// stage tells a re-executed test binary that it runs in a network namespace of its own.
const stage = "WEIR_PING_TEST_STAGE"

// inNamespace runs the calling test again in new user and network namespaces, with lo up and with the given
// ping_group_range ("" leaves a new namespace's default, which is nobody), and reports whether the caller is that second run.
func inNamespace(t *testing.T, groups string) bool {
	t.Helper()
	if os.Getenv(stage) != "" {
		if err := loopbackUp(); err != nil {
			t.Fatalf("set lo up: %v", err)
		}
		if groups == "" {
			return true
		}
		if err := os.WriteFile("/proc/sys/net/ipv4/ping_group_range", []byte(groups), 0); err != nil {
			t.Skipf("the namespace's ping_group_range cannot be set here: %v", err)
		}
		return true
	}
	cmd := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), stage+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
		Pdeathsig:   syscall.SIGKILL,
	}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Skipf("user and network namespaces are not available: %v", err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("in the namespace: %v\n%s", err, out.String())
	}
	if strings.Contains(out.String(), "--- SKIP") {
		t.Skip(out.String())
	}
	return false
}

func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr)
}

// echo returns an echo request; the kernel fills in identifier and checksum.
func echo(typ byte, seq uint16, payload string) []byte {
	m := make([]byte, 8, 8+len(payload))
	m[0] = typ
	binary.BigEndian.PutUint16(m[4:], 0xbeef)
	binary.BigEndian.PutUint16(m[6:], seq)
	return append(m, payload...)
}

func TestEcho(t *testing.T) {
	if !inNamespace(t, "0 0") {
		return
	}
	for _, tt := range []struct {
		name           string
		addr           string
		request, reply byte
	}{
		{"v4", "127.0.0.1", 8, 0},
		{"v4 mapped into v6", "::ffff:127.0.0.1", 8, 0},
		{"v6", "::1", 128, 129},
	} {
		t.Run(tt.name, func(t *testing.T) {
			conn, err := Dial(t.Context(), netip.MustParseAddr(tt.addr))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(10 * time.Second))
			buf := make([]byte, 128)
			for seq := uint16(1); seq <= 3; seq++ {
				if _, err := conn.Write(echo(tt.request, seq, "weir")); err != nil {
					t.Fatal(err)
				}
				n, err := conn.Read(buf)
				if err != nil {
					t.Fatal(err)
				}
				m := buf[:n]
				if n != 12 || m[0] != tt.reply || binary.BigEndian.Uint16(m[6:]) != seq || string(m[8:]) != "weir" {
					t.Fatalf("reply % x: want type %d, sequence %d, payload weir", m, tt.reply, seq)
				}
			}
			if _, err := conn.Write(echo(13, 1, "timestamp")); !errors.Is(err, unix.EINVAL) {
				t.Errorf("a message that is no echo request: %v, want EINVAL", err)
			}
		})
	}
}

func TestForbidden(t *testing.T) {
	if !inNamespace(t, "") {
		return
	}
	for _, addr := range []string{"127.0.0.1", "::1"} {
		_, err := Dial(t.Context(), netip.MustParseAddr(addr))
		if !errors.Is(err, ErrForbidden) || !strings.Contains(err.Error(), "net.ipv4.ping_group_range") {
			t.Errorf("dial %s: %v, want ErrForbidden that names the sysctl", addr, err)
		}
	}
}

func TestUnreachable(t *testing.T) {
	if !inNamespace(t, "0 0") {
		return
	}
	// The namespace has no route but loopback's.
	_, err := Dial(t.Context(), netip.MustParseAddr("203.0.113.1"))
	if !errors.Is(err, unix.ENETUNREACH) || errors.Is(err, ErrForbidden) {
		t.Errorf("dial without a route: %v, want ENETUNREACH", err)
	}
}

func TestDialRefusesNonsense(t *testing.T) {
	if _, err := Dial(t.Context(), netip.Addr{}); err == nil {
		t.Error("the zero address was accepted")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Dial(ctx, netip.MustParseAddr("127.0.0.1")); !errors.Is(err, context.Canceled) {
		t.Errorf("with an ended context: %v", err)
	}
	if _, err := Dial(t.Context(), netip.MustParseAddr("fe80::1%no-such-interface")); err == nil {
		t.Error("an unknown zone was accepted")
	}
}
