package event

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// denial is a denied flow to a destination.
func denial(host string, port uint16) *Event {
	return &Event{Time: time.Now(), App: "a", Sandbox: "s", Details: &Connect{
		Hostname: host, Dst: netip.AddrPortFrom(netip.MustParseAddr("192.0.2.1"), port), Protocol: "tcp", Verdict: "deny", Reason: "default",
	}}
}

func carried() *Event {
	return &Event{Time: time.Now(), App: "a", Sandbox: "s", Details: &Connect{Hostname: "ok.example", Verdict: "allow"}}
}

// flood is a log that has just been flooded with denials of one destination.
func flood(t *testing.T, n int) (*Log, string) {
	path := filepath.Join(t.TempDir(), "events.jsonl")
	l := open(t, path, Limits{Events: 1 << 20, Bytes: 1 << 30})
	for range n {
		l.Emit(denial("flood.example", 443))
	}
	return l, path
}

// countLines returns how many events of each kind and host were written, and what the summaries add up to by kind.
func countLines(events []*Event) (written map[string]uint64, suppressed map[Kind]uint64, summaries int) {
	written, suppressed = map[string]uint64{}, map[Kind]uint64{}
	for _, e := range events {
		switch d := e.Details.(type) {
		case *Connect:
			written[d.Hostname]++
		case *Dropped:
			if d.What != suppressedWhat {
				continue
			}
			summaries++
			for _, k := range d.ByKind {
				suppressed[k.Kind] += k.Count
			}
		}
	}
	return written, suppressed, summaries
}

// What is written and what the summaries say adds up to what was emitted, to the event.
func TestSuppressedIsExact(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const each, seconds = 30000, 10
		l, path := flood(t, 0)
		for range seconds {
			for range each {
				l.Emit(denial("flood.example", 443))
			}
			time.Sleep(time.Second)
		}
		flush(t, l)
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		written, suppressed, summaries := countLines(readFile(t, path))
		got := written["flood.example"]
		if got+suppressed[KindConnect] != each*seconds {
			t.Errorf("%d written + %d suppressed, want %d", got, suppressed[KindConnect], each*seconds)
		}
		if want := uint64(DeniedBurst + FirstBurst + DeniedRate*seconds); got < DeniedBurst || got > want {
			t.Errorf("%d written, want %d to %d", got, DeniedBurst, want)
		}
		if n := l.Suppressed()[KindConnect]; n != suppressed[KindConnect] {
			t.Errorf("the log says %d, the summaries %d", n, suppressed[KindConnect])
		}
		if summaries < seconds-2 || summaries > seconds+2 {
			t.Errorf("%d summaries in %d seconds", summaries, seconds)
		}
	})
}

// What is carried has its own bucket, and the first event about a destination a reserve.
func TestFloodDisplacesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, path := flood(t, 2*DeniedBurst)
		l.Emit(carried())
		l.Emit(denial("first.example", 443))
		l.Emit(denial("first.example", 443))
		l.Emit(denial("first.example", 80))
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		written, suppressed, _ := countLines(readFile(t, path))
		if written["ok.example"] != 1 || written["first.example"] != 2 || suppressed[KindConnect] != DeniedBurst+1 {
			t.Errorf("written %v, suppressed %v", written, suppressed)
		}
	})
}

// A first event that came when even the reserve was used up does not count as written: the next one has a chance again.
func TestFirstIsWrittenLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, path := flood(t, 0)
		for i := range DeniedBurst + FirstBurst {
			l.Emit(denial(fmt.Sprintf("h%d.example", i), 443))
		}
		l.Emit(denial("first.example", 443))
		time.Sleep(time.Second)
		for range DeniedRate {
			l.Emit(denial("h1.example", 443))
		}
		l.Emit(denial("first.example", 443))
		l.Emit(denial("first.example", 443))
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		if written, suppressed, _ := countLines(readFile(t, path)); written["first.example"] != 1 || suppressed[KindConnect] != 2 {
			t.Errorf("%d written, %d suppressed", written["first.example"], suppressed[KindConnect])
		}
	})
}

// The reserve is bounded: a scan of destinations is a flood too.
func TestFloodOfFirsts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, path := flood(t, 0)
		const scanned = 60000
		for i := range scanned {
			l.Emit(denial(fmt.Sprintf("h%d.example", i%1000), uint16(1+i/1000)))
		}
		if n := len(l.limiter.known.new) + len(l.limiter.known.old); n > 2*maxKnown {
			t.Errorf("%d destinations are remembered", n)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		events := readFile(t, path)
		_, suppressed, summaries := countLines(events)
		if got := len(events) - summaries; got != DeniedBurst+FirstBurst || uint64(got)+suppressed[KindConnect] != scanned {
			t.Errorf("%d written, %d suppressed of %d", got, suppressed[KindConnect], scanned)
		}
	})
}

// Nothing comes after the end of a sandbox, not even a summary.
func TestSummaryBeforeExit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, path := flood(t, DeniedBurst+1)
		time.Sleep(time.Millisecond)
		l.Emit(denial("flood.example", 443))
		l.Emit(denial("flood.example", 443))
		l.Emit(&Event{Time: time.Now(), App: "a", Sandbox: "s", Details: &SandboxExit{}})
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		events := readFile(t, path)
		last, before := events[len(events)-1], events[len(events)-2]
		if last.Kind != KindSandboxExit || before.Kind != KindDropped || before.Sandbox != "s" {
			t.Errorf("the log ends with %s of %q and %s", before.Kind, before.Sandbox, last.Kind)
		}
		if _, suppressed, _ := countLines(events); suppressed[KindConnect] != 3 {
			t.Errorf("suppressed %v, want 3", suppressed)
		}
	})
}

// A summary that could not be written is said by the next one.
func TestLostSummaryIsSaidAgain(t *testing.T) {
	path := filepath.Join(t.TempDir(), "events.jsonl")
	out, err := openPath(Disk{}, path, Limits{}.withDefaults())
	if err != nil {
		t.Fatal(err)
	}
	broken := &failing{output: out}
	broken.left.Store(1)
	l := start(broken, Limits{}.withDefaults())
	l.queue.suppress(denial("flood.example", 443))
	l.queue.summarizeEvery(0)
	for broken.left.Load() > 0 {
		flushQuietly(l)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, suppressed, summaries := countLines(readFile(t, path)); suppressed[KindConnect] != 1 || summaries != 1 {
		t.Errorf("suppressed %v in %d summaries, want 1 in 1", suppressed, summaries)
	}
}

// A log that was full when it was closed still says it.
func TestSummaryOfFullQueue(t *testing.T) {
	path := filepath.Join(t.TempDir(), "events.jsonl")
	out, err := openPath(Disk{}, path, Limits{}.withDefaults())
	if err != nil {
		t.Fatal(err)
	}
	l := start(out, Limits{Events: 1}.withDefaults())
	l.queue.mu.Lock()
	l.queue.suppressed[slot(KindClose)], l.queue.lastSuppressed, l.queue.closed = 7, carried(), true
	l.queue.mu.Unlock()
	close(l.closing)
	l.queue.signal()
	<-l.done
	if _, suppressed, _ := countLines(readFile(t, path)); suppressed[KindClose] != 7 {
		t.Errorf("suppressed %v, want 7", suppressed)
	}
}

// failing is an output whose first writes fail.
type failing struct {
	output
	left atomic.Int32
}

func (f *failing) write(b []byte, ends []int) (int, error) {
	if f.left.Add(-1) >= 0 {
		return 0, os.ErrInvalid
	}
	return f.output.write(b, ends)
}

func flushQuietly(l *Log) {
	round := make(chan struct{})
	l.waiters <- round
	<-round
}

// An ordinary event costs no allocation here.
func TestLimiterAllocatesNothing(t *testing.T) {
	l, e := newLimiter(), carried()
	l.allow(e)
	if n := testing.AllocsPerRun(1000, func() { l.allow(e) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}
