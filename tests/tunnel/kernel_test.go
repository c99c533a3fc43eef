//go:build linux

package tunnel

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weir-dev/weir/internal/impair"
)

// TestAgainstKernelTCP: at 50 ms and 0.1 % loss a flow of the tunnel gets what one connection of the kernel's TCP gets over the
// same link, in the same direction. They take turns, and the medians are compared. The kernel's is CUBIC, as kernels come, or
// Reno where there is no CUBIC; what this machine's own default gets, which may be BBR, is only printed: QUIC here has NewReno. Where a loss falls in the slow
// start decides much, so single runs differ tenfold, and the bound is a half.
func TestAgainstKernelTCP(t *testing.T) {
	long(t)
	const size, rounds = 16 << 20, 5
	h := host(t, "a")
	p := h.laptops["a"]
	p.link.SetBoth(impair.Settings{Delay: 25 * time.Millisecond, Loss: 0.001})
	h.connect(t, "a", "acme", "--allow", officeEcho.String()+":*")
	at := netip.AddrPortFrom(cloudAddr, 9001)
	kinds := make(chan string, 1)
	h.cloud.listen(t, at, func(c net.Conn) {
		defer c.Close()
		if kind := <-kinds; kind != "" {
			chooseCongestion(c, kind)
		}
		io.CopyN(c, zeros{}, size)
	})
	kernel := func(kind string) float64 {
		kinds <- kind
		start := time.Now()
		if n, err := io.Copy(io.Discard, p.dial(t, "tcp", at.String())); n != size || err != nil {
			t.Fatalf("the kernel carried %d octets, %v", n, err)
		}
		return size * 8 / time.Since(start).Seconds() / 1e6
	}
	tunnel := func() float64 {
		said, log := h.probe(t, echoing, "upload", sumAt.String(), fmt.Sprint(size))
		e := log.find("network-close", "close=*")
		if said != "the same" || e == nil {
			t.Fatalf("the tunnel: %q\n%s", said, log)
		}
		ms, _ := e.Details["duration_ms"].(float64)
		return size * 8 / (ms / 1000) / 1e6
	}
	var rates [3][]float64
	for range rounds {
		for i, one := range []func() float64{tunnel, func() float64 { return kernel("cubic") }, func() float64 { return kernel("") }} {
			rates[i] = append(rates[i], one())
		}
	}
	for _, r := range rates {
		slices.Sort(r)
	}
	t.Logf("Mbit/s: tunnel %.1f, kernel %.1f, this machine's own %.1f", rates[0], rates[1], rates[2])
	if got, want := rates[0][rounds/2], rates[1][rounds/2]; got < want/2 {
		t.Errorf("the tunnel carries %.1f Mbit/s, the kernel %.1f", got, want)
	}
}

// chooseCongestion has a connection use an algorithm that may be missing; Reno never is.
func chooseCongestion(c net.Conn, kind string) {
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		return
	}
	raw.Control(func(fd uintptr) {
		if unix.SetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION, kind) != nil {
			unix.SetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION, "reno")
		}
	})
}

// zeros is a source without an end.
type zeros struct{}

func (zeros) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}
