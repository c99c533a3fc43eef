//go:build linux && !client

package main

import (
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/time/rate"

	"github.com/weir-dev/weir/flow/event"
	"github.com/weir-dev/weir/internal/attribution"
)

var somewhere = netip.MustParseAddrPort("192.0.2.1:80")

// ownerPair is the data path's side and the bare other end.
func ownerPair(t *testing.T) (*owners, net.Conn) {
	t.Helper()
	launcher, remote, err := newOwnerPair()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { launcher.Close() })
	o, err := newOwners(remote)
	if err != nil {
		t.Fatal(err)
	}
	o.limit = rate.NewLimiter(rate.Inf, 0)
	return o, launcher
}

// ask waits for the answer.
func (o *owners) wait(network string, src, dst netip.AddrPort) *event.Process {
	answer := make(chan *event.Process, 1)
	o.find(network, src, dst, func(p *event.Process) { answer <- p })
	return <-answer
}

func TestOwners(t *testing.T) {
	o, launcher := ownerPair(t)
	finder := attribution.New(os.Getpid(), nil)
	defer finder.Close()
	go answerOwners(launcher, finder.Find)
	for _, host := range []string{"127.0.0.1", "::1"} {
		ln, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
		if err != nil {
			t.Skipf("no %s: %v", host, err)
		}
		defer ln.Close()
		c, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		p := o.wait("tcp", addrPort(c.LocalAddr()), addrPort(c.RemoteAddr()))
		if p == nil || p.PID != os.Getpid() || strings.Join(p.Args, "|") != strings.Join(os.Args, "|") {
			t.Errorf("owner %+v, want this process %q", p, os.Args)
		}
		if again := o.wait("tcp", addrPort(c.LocalAddr()), addrPort(c.RemoteAddr())); again != p {
			t.Error("the same process is described twice")
		}
	}
	if p := o.wait("udp", somewhere, somewhere); p != nil {
		t.Errorf("owner of no flow: %+v", p)
	}
}

// What goes over the socket comes out as it went in, whatever a program calls itself.
func TestOwnerMessages(t *testing.T) {
	long := strings.Repeat("x", 4<<10)
	for name, test := range map[string]struct {
		process attribution.Process
		args    []string
	}{
		"plain":           {attribution.Process{PID: 7, Exe: "/bin/sh", Args: []string{"sh", "-c", "true"}}, []string{"sh", "-c", "true"}},
		"octets":          {attribution.Process{PID: 7, Exe: "/\xff", Args: []string{"a", "", "\xff"}}, []string{"a", "", "\xff"}},
		"renamed itself":  {attribution.Process{PID: 7, Args: []string{"new name", "", ""}}, []string{"new name"}},
		"nothing":         {attribution.Process{PID: 7}, nil},
		"as long as ever": {attribution.Process{PID: 7, Exe: long, Args: []string{long}}, []string{long}},
		"too long":        {attribution.Process{PID: 7, Args: []string{"a", long + long + long + long}}, []string{"a"}},
	} {
		t.Run(name, func(t *testing.T) {
			o, launcher := ownerPair(t)
			src, dst := netip.MustParseAddrPort("10.77.0.2:1"), netip.MustParseAddrPort("[fd00::1]:65535")
			var asked ownerQuestion
			go answerOwners(launcher, func(network string, src, dst netip.AddrPort) (attribution.Process, bool) {
				asked = ownerQuestion{network: network, src: src, dst: dst}
				return test.process, true
			})
			p := o.wait("udp", src, dst)
			if p == nil || p.PID != 7 || p.Exe != test.process.Exe || !slices.Equal(p.Args, test.args) {
				t.Errorf("%+v, want %+v", p, test.process)
			}
			if want := (ownerQuestion{network: "udp", src: src, dst: dst}); asked != want {
				t.Errorf("asked for %+v, want %+v", asked, want)
			}
		})
	}
}

// A flood of flows waits for its turn, in this process: the socket never holds more than it can.
func TestOwnersOfAFlood(t *testing.T) {
	o, launcher := ownerPair(t)
	const flows = 4 * maxOwners
	found := make(chan *event.Process, flows)
	for range flows {
		o.find("tcp", somewhere, somewhere, func(p *event.Process) { found <- p })
	}
	first := make([]byte, maxOwners*questionLen)
	if _, err := io.ReadFull(launcher, first); err != nil {
		t.Fatal(err)
	}
	if o.asked != maxOwners || len(o.queue) != (flows-maxOwners)*questionLen {
		t.Errorf("%d questions are under way, %d octets wait", o.asked, len(o.queue))
	}
	for ; len(first) > 0; first = first[questionLen:] {
		launcher.Write(appendOwner(nil, parseQuestion(first).serial, attribution.Process{PID: 7}))
	}
	go answerOwners(launcher, func(string, netip.AddrPort, netip.AddrPort) (attribution.Process, bool) {
		return attribution.Process{PID: 7}, true
	})
	for range flows {
		if p := <-found; p == nil || p.PID != 7 {
			t.Fatalf("owner %+v", p)
		}
	}
}

// Without a launcher nobody waits, neither those who asked before nor those who ask then; the same goes for one that does
// not make sense.
func TestOwnersWithoutALauncher(t *testing.T) {
	for name, last := range map[string]string{"gone": "", "too short": "\x00\x01x", "exe beyond the end": "\x00\x0a\x00\x00\x00\x01\x00\x00\x00\x07\xff\xff"} {
		t.Run(name, func(t *testing.T) {
			o, launcher := ownerPair(t)
			answers := make(chan *event.Process, 2)
			o.find("tcp", somewhere, somewhere, func(p *event.Process) { answers <- p })
			if _, err := io.ReadFull(launcher, make([]byte, questionLen)); err != nil {
				t.Fatal(err)
			}
			launcher.Write([]byte(last))
			if last == "" {
				launcher.Close()
			}
			if p := <-answers; p != nil {
				t.Errorf("%+v", p)
			}
			if p := o.wait("tcp", somewhere, somewhere); p != nil {
				t.Errorf("%+v", p)
			}
		})
	}
}

// Beyond the bound nobody is asked.
func TestOwnersAreBounded(t *testing.T) {
	o, _ := ownerPair(t)
	o.limit = rate.NewLimiter(0, 0)
	if p := o.wait("tcp", somewhere, somewhere); p != nil || o.serial != 0 {
		t.Errorf("%+v after %d questions", p, o.serial)
	}
}
