package relay

import (
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestSpliceKeepsBytes: writes of every size, in a stream that stops and goes on, arrive as they were, in both directions at
// once, with a reader that takes them in other pieces.
func TestSpliceKeepsBytes(t *testing.T) {
	eachKind(t, Options{}, func(t *testing.T, r rig) {
		sums := make(chan string, 4)
		for i, dir := range []struct{ from, to *net.TCPConn }{{r.program, r.server}, {r.server, r.program}} {
			go func() { sums <- sendRandom(dir.from, uint64(i)) }()
			go func() { sums <- receiveRandom(dir.to, uint64(i)) }()
		}
		seen := map[string]int{}
		for range 4 {
			seen[<-sums]++
		}
		for sum, n := range seen {
			if n != 2 {
				t.Errorf("%s on one side only", sum)
			}
		}
		if st := <-r.done; st.Cause != Fin || st.Sent == 0 || st.Received == 0 {
			t.Errorf("stats %+v", st)
		}
	})
}

func sendRandom(c *net.TCPConn, seed uint64) string {
	defer c.CloseWrite()
	rnd, h, total := rand.New(rand.NewPCG(seed, 1)), sha256.New(), 0
	for _, size := range []int{1, 64, spliceBuffer - 1, spliceBuffer, spliceBuffer + 1, 300 << 10, 3, 2 << 20, 1, 5 << 20, 100} {
		b := make([]byte, size)
		for i := range b {
			b[i] = byte(rnd.Uint32())
		}
		h.Write(b)
		n, err := c.Write(b)
		if total += n; err != nil {
			return err.Error()
		}
		if size < 100 {
			time.Sleep(time.Millisecond) // so that the relay goes to rest, and begins again
		}
	}
	return fmt.Sprintf("%d: %d bytes, %x", seed, total, h.Sum(nil))
}

func receiveRandom(c *net.TCPConn, seed uint64) string {
	rnd, h, total := rand.New(rand.NewPCG(seed, 2)), sha256.New(), 0
	for {
		b := make([]byte, 1+rnd.IntN(200<<10))
		n, err := c.Read(b)
		h.Write(b[:n])
		total += n
		if err == io.EOF {
			return fmt.Sprintf("%d: %d bytes, %x", seed, total, h.Sum(nil))
		}
		if err != nil {
			return err.Error()
		}
	}
}

// TestSpliceEnds: whatever ends a flow in the middle of large amounts, no pipe keeps bytes for the next flow.
func TestSpliceEnds(t *testing.T) {
	for range 20 {
		program, client := tcpPair(t)
		upstream, server := tcpPair(t)
		r := New(t.Context(), client, upstream)
		r.Start()
		go func() {
			b := make([]byte, 1<<20)
			for {
				if _, err := program.Write(b); err != nil {
					return
				}
			}
		}()
		go func() {
			io.CopyN(io.Discard, server, 3<<20) // and then nobody reads
			r.Reset(Policy)
		}()
		r.Up(Options{})
		r.Wait()
		program.Close()
	}
	pipes.mu.Lock()
	defer pipes.mu.Unlock()
	if len(pipes.free) > pipesKept {
		t.Errorf("%d pipes are kept, want at most %d", len(pipes.free), pipesKept)
	}
	for _, p := range pipes.free {
		if n, err := unix.IoctlGetInt(p.r, unix.TIOCINQ); n != 0 || err != nil {
			t.Errorf("a pipe that waits for its next use holds %d bytes, %v", n, err)
		}
	}
}

// TestPipesKept: no more than pipesKept pipes wait for their next use; the others are closed.
func TestPipesKept(t *testing.T) {
	var taken []*pipe
	for range pipesKept + 3 {
		p := takePipe()
		if p == nil {
			t.Fatal("no pipe")
		}
		taken = append(taken, p)
	}
	for _, p := range taken {
		p.giveBack()
	}
	open := 0
	for _, p := range taken {
		if _, err := unix.FcntlInt(uintptr(p.r), unix.F_GETFD, 0); err == nil {
			open++
		}
	}
	if open != pipesKept {
		t.Errorf("%d pipes are open, want %d", open, pipesKept)
	}
}

// TestSpliceWithoutPipes: where there is no descriptor for a pipe, bytes are copied.
func TestSpliceWithoutPipes(t *testing.T) {
	program, client := tcpPair(t)
	upstream, server := tcpPair(t)
	done := make(chan Stats, 1)
	var was syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &was); err != nil {
		t.Fatal(err)
	}
	pipes.mu.Lock()
	for _, p := range pipes.free {
		p.close()
	}
	pipes.free = nil
	pipes.mu.Unlock()
	f, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	full := syscall.Rlimit{Cur: uint64(f.Fd()), Max: was.Max} // f has the lowest free number: from here on there is none
	f.Close()
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &full); err != nil {
		t.Fatal(err)
	}
	defer syscall.Setrlimit(syscall.RLIMIT_NOFILE, &was)
	if p := takePipe(); p != nil {
		p.close()
		t.Fatal("there is still a descriptor")
	}
	go func() { done <- Pipe(t.Context(), client, upstream, Options{}) }()
	sums := make(chan string, 2)
	go func() { sums <- sendRandom(program, 7) }()
	go func() { sums <- receiveRandom(server, 7) }()
	if a, b := <-sums, <-sums; a != b {
		t.Errorf("%s, %s", a, b)
	}
	server.Close()
	<-done
}
