//go:build linux

package tests

import (
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestKill9: whichever process of weir is killed, at whatever moment, nothing of the sandbox stays, no flow begins, and no
// byte arrives that the program wrote after the data path was gone, whatever the door. What the kernel had queued may drain.
//
// KILLS is how often (12); make kill9 does it 100 times. SEED repeats the moments of another run.
func TestKill9(t *testing.T) {
	kills, seed := number(t, "KILLS", 12), number(t, "SEED", 9)
	if testing.Short() {
		kills = 3
	}
	moments := rand.New(rand.NewPCG(uint64(seed), 9))
	stamps := serveStamps(t)
	victims := []string{"launcher", "data path", "init"}
	worst := map[string]time.Duration{}
	for i := range kills {
		victim, door, delay := victims[i%len(victims)], doors[i/len(victims)%len(doors)], time.Duration(moments.IntN(400_000))*time.Microsecond
		ok := t.Run(fmt.Sprintf("%d %s through %s after %v", i, victim, door, delay), func(t *testing.T) {
			lag := kill9(t, stamps, victim, door, delay)
			worst[victim] = max(worst[victim], lag)
		})
		if !ok {
			break
		}
	}
	t.Logf("%d kills under %d flows, seed %d; longest from the kill to the last byte written that arrived: %v", kills, flowsAtKill, seed, worst)
}

// flowsAtKill is how many flows are busy at the moment of the kill; 50 to 100 a second are added.
const flowsAtKill = 1000

// mercy is what a loaded machine may take until the death of one process has reached the others. On one that is not, no byte
// was more than 5 ms late.
const mercy = time.Second

// kill9 does it once and returns how long after the kill the last byte that arrived was written.
func kill9(t *testing.T, stamps *stampServer, victim, door string, delay time.Duration) time.Duration {
	token := fmt.Sprintf("token-%x", rand.Uint64())
	stamps.reset()
	r := startReady(t, "weir", "run", "-q", "--door", door, "--allow", stamps.at.Addr().String()+":*", "--share="+filepath.Join(binDir(), "probe")+":/run/probe:ro",
		"--", "/run/probe", "stamp", strconv.Itoa(flowsAtKill), stamps.at.String(), token)
	if !soon(func() bool { return stamps.flows() >= flowsAtKill*4/5 }) {
		t.Fatalf("the server has %d flows", stamps.flows())
	}
	time.Sleep(delay)

	family := descendants(t, r.cmd.Process.Pid)
	weir := map[string]int{"launcher": r.cmd.Process.Pid}
	for _, p := range family {
		switch p.name {
		case "weir-datapath":
			weir["data path"] = p.pid
		case "weir-init":
			weir["init"] = p.pid
		}
	}
	if len(weir) != 3 || len(family) != 5 {
		t.Fatalf("these are not weir and its sandbox: %v", family)
	}
	dying, dataPath := watchEnd(t, weir[victim]), watchEnd(t, weir["data path"])
	killed := boottime()
	if err := unix.Kill(weir[victim], unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	died, gone := dying(), dataPath()
	late := stamps.drain(t)
	r.cmd.Wait()

	if late > 0 {
		t.Errorf("%d flows began after the data path was gone", late)
	}
	last := stamps.latest()
	if last > gone || last > died+mercy {
		t.Errorf("a byte arrived that was written %v after the kill; the victim was dead after %v, the data path gone after %v", last-killed, died-killed, gone-killed)
	}
	waitGone(t, family)
	if left := tokenBearers(t, token); len(left) > 0 {
		t.Errorf("still there: %v", left)
	}
	return max(last-killed, 0)
}

// watchEnd returns a function that waits until the process has ended, and says when that was.
func watchEnd(t *testing.T, pid int) func() time.Duration {
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(pidfd) })
	return func() time.Duration {
		for {
			n, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, int(patience.Milliseconds()))
			switch {
			case err == unix.EINTR:
				continue
			case err != nil || n == 0:
				t.Fatalf("process %d does not end: %v", pid, err)
			}
			return boottime()
		}
	}
}

// soon asks until the answer is yes.
func soon(yes func() bool) bool {
	for end := time.Now().Add(patience); !yes(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			return false
		}
	}
	return true
}

func number(t *testing.T, variable string, otherwise int) int {
	text := os.Getenv(variable)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("%s=%s is no number", variable, text)
	}
	return n
}

// boottime is the clock of the records, which the sandbox shares.
func boottime() time.Duration {
	var ts unix.Timespec
	unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts)
	return time.Duration(ts.Nano())
}

// tokenBearers are the processes that have the token in their arguments.
func tokenBearers(t *testing.T, token string) (list []string) {
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if args, _ := os.ReadFile(f); strings.Contains(string(args), token) {
			list = append(list, f)
		}
	}
	return list
}

// stampServer hears what probe stamp says, over TCP and UDP.
type stampServer struct {
	at netip.AddrPort
	pc net.PacketConn

	mu     sync.Mutex
	began  int           // TCP flows since reset
	open   int           // how many of them still live
	marked int           // which of them was the marker's, counted from 1; 0: it has not come
	last   time.Duration // latest record
	quiet  chan struct{} // closed when the UDP marker has come
}

// marker is what the test says to its own server, in the length of a record: what was queued before it has been heard, and
// what comes behind it is late.
const marker = "marker--"

func serveStamps(t *testing.T) *stampServer {
	s := &stampServer{at: netip.AddrPortFrom(netip.MustParseAddr("198.51.100.77"), 9)}
	ln, err := world.Listen(s.at)
	if err != nil {
		t.Fatal(err)
	}
	if s.pc, err = world.ListenPacket(s.at); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close(); s.pc.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			s.began++
			s.open++
			go s.hear(c, s.began)
			s.mu.Unlock()
		}
	}()
	go s.hearDatagrams()
	return s
}

func (s *stampServer) reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.began, s.open, s.marked, s.last, s.quiet = 0, 0, 0, 0, make(chan struct{})
}

// hear reads the nth flow to its end.
func (s *stampServer) hear(c net.Conn, n int) {
	defer c.Close()
	b := make([]byte, len(marker))
	for {
		_, err := io.ReadFull(c, b)
		switch {
		case err != nil:
			s.mu.Lock()
			s.open--
			s.mu.Unlock()
			return
		case string(b) == marker:
			s.mu.Lock()
			s.marked = n
			s.mu.Unlock()
		default:
			s.record(b)
		}
	}
}

func (s *stampServer) hearDatagrams() {
	b := make([]byte, 64)
	for {
		switch n, _, err := s.pc.ReadFrom(b); {
		case err != nil:
			return
		case string(b[:n]) == marker:
			close(s.quiet)
		case n == len(marker):
			s.record(b[:n])
		}
	}
}

func (s *stampServer) record(b []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last = max(s.last, time.Duration(binary.BigEndian.Uint64(b)))
}

func (s *stampServer) flows() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.began
}

func (s *stampServer) latest() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last
}

// drain waits until nothing more can come, and returns how many flows began after it was called.
func (s *stampServer) drain(t *testing.T) (late int) {
	t.Helper()
	c, err := net.DialTimeout("tcp", s.at.String(), patience) // behind all that wait to be accepted
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(c, marker)
	c.Close()
	over := func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.open == 0 && s.marked > 0
	}
	if !soon(over) {
		t.Error("flows are still open")
	}
	u, err := net.Dial("udp", s.at.String())
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	io.WriteString(u, marker)
	select {
	case <-s.quiet:
	case <-time.After(patience):
		t.Error("the server's datagrams did not drain")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.began - s.marked
}
