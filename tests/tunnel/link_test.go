//go:build linux

package tunnel

import (
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/weir-dev/weir/internal/impair"
)

// sumAt is where every office has a sumServer.
var sumAt = netip.AddrPortFrom(officeEcho, 6)

// sumServer answers with the SHA-256 of what it gets when the other side has half-closed.
func sumServer(c net.Conn) {
	defer c.Close()
	h := sha256.New()
	if _, err := io.Copy(h, c); err == nil {
		fmt.Fprintf(c, "%x", h.Sum(nil))
	}
}

// upload sends size octets from the laptop and returns whether they arrived as they were sent, and the rate in bit/s.
func upload(t testing.TB, c net.Conn, size int64) (whole bool, rate float64) {
	t.Helper()
	h := sha256.New()
	start := time.Now()
	if _, err := io.Copy(c, io.TeeReader(io.LimitReader(rand.NewChaCha8([32]byte{1}), size), h)); err != nil {
		t.Fatal(err)
	}
	c.(*net.TCPConn).CloseWrite()
	got, err := io.ReadAll(c)
	if err != nil {
		t.Fatal(err)
	}
	return string(got) == fmt.Sprintf("%x", h.Sum(nil)), float64(size) * 8 / time.Since(start).Seconds()
}

// TestLaboratory: the laboratory is what it says: the kernel's own TCP gets through it however bad the network is, the NAT
// hides the laptop, each office is reached from its laptop only, and what leaves the cloud otherwise is seen.
func TestLaboratory(t *testing.T) {
	l := newLab(t, "a", "b")
	seen := make(chan string, 16)
	at := netip.AddrPortFrom(cloudAddr, 9000)
	l.cloud.listen(t, at, func(c net.Conn) {
		seen <- c.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().String()
		sumServer(c)
	})
	for _, c := range []struct {
		name   string
		laptop string
		s      impair.Settings
		size   int64
	}{
		{"perfect", "a", impair.Settings{}, 32 << 20},
		{"the other laptop", "b", impair.Settings{}, 1 << 20},
		{"far and lossy", "a", impair.Settings{Delay: 10 * time.Millisecond, Jitter: 5 * time.Millisecond, Loss: 0.01, Reorder: 0.01, Duplicate: 0.01}, 1 << 20},
		{"narrow", "a", impair.Settings{Rate: 20_000_000}, 1 << 20},
		{"a short path", "a", impair.Settings{MTU: 1280}, 1 << 20},
		{"UDP is blocked", "a", impair.Settings{BlockUDP: true}, 1 << 20},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := l.laptops[c.laptop]
			p.link.SetBoth(c.s)
			defer p.link.SetBoth(impair.Settings{})
			whole, rate := upload(t, p.dial(t, "tcp", at.String()), c.size)
			if from := <-seen; !whole || from != homeOf[c.laptop].String() {
				t.Errorf("whole %v, from %s", whole, from)
			}
			t.Logf("%.0f Mbit/s, %+v", rate/1e6, p.link.Counts(impair.Up))
		})
	}

	for name, p := range l.laptops {
		q := p.dial(t, "udp", netip.AddrPortFrom(officeEcho, 7).String())
		q.SetDeadline(time.Now().Add(10 * time.Second))
		fmt.Fprint(q, name)
		b := make([]byte, 10)
		if n, err := q.Read(b); err != nil || string(b[:n]) != name {
			t.Errorf("office of %s: %q %v", name, b[:n], err)
		}
	}
	if left := l.strayed(); len(left) != 0 {
		t.Errorf("left the cloud: %v", left)
	}
	fmt.Fprint(l.cloud.dial(t, "udp", netip.AddrPortFrom(stagingOf["a"], 5432).String()), "x")
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if left := l.strayed(); strings.Join(left, "") == "protocol 17 to "+stagingOf["a"].String() {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("a datagram from the cloud to the office was not seen")
		}
	}
}
