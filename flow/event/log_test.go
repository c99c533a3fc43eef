package event

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	if path := os.Getenv("WEIR_EVENT_TEST_WRITER"); path != "" {
		writeMany(path, os.Getenv("WEIR_EVENT_TEST_NAME"))
		return
	}
	goleak.VerifyTestMain(m)
}

const (
	writers      = 4
	writerEvents = 3000
)

// writeMany is one of the writer processes of TestRotationWithManyWriters.
func writeMany(path, name string) {
	l, err := OpenFile(path, Limits{FileSize: 64 << 10, Keep: 1000})
	if err != nil {
		panic(err)
	}
	for i := range writerEvents {
		l.Emit(&Event{Time: noon, App: name, Flow: fmt.Sprint(i), Kind: "test"})
		if i%100 == 99 {
			if err := l.Flush(context.Background()); err != nil {
				panic(err)
			}
		}
	}
	if err := l.Close(); err != nil {
		panic(err)
	}
}

func TestRotationWithManyWriters(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state", "events.jsonl")
	var wg sync.WaitGroup
	for i := range writers {
		wg.Go(func() {
			cmd := exec.Command(os.Args[0])
			cmd.Env = append(os.Environ(), "WEIR_EVENT_TEST_WRITER="+path, fmt.Sprint("WEIR_EVENT_TEST_NAME=w", i))
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("writer %d: %v\n%s", i, err, out)
			}
		})
	}
	wg.Wait()

	next := map[string]int{}
	files, err := filepath.Glob(path + "*")
	if err != nil || len(files) < 3 {
		t.Fatalf("files %v, %v", files, err)
	}
	for i := len(files) - 1; i >= 0; i-- { // the oldest has the highest number
		name := path
		if i > 0 {
			name = rotated(path, i)
		}
		info, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		if info.Size() > 64<<10 || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %d octets, mode %v", name, info.Size(), info.Mode())
		}
		for _, e := range readFile(t, name) {
			if e.Flow != fmt.Sprint(next[e.App]) {
				t.Fatalf("%s: event %s of %s, want %d", name, e.Flow, e.App, next[e.App])
			}
			next[e.App]++
		}
	}
	for i := range writers {
		if n := next[fmt.Sprint("w", i)]; n != writerEvents {
			t.Errorf("writer %d: %d events in the files, want %d", i, n, writerEvents)
		}
	}
	if info, _ := os.Stat(filepath.Dir(path)); info.Mode().Perm() != 0o700 {
		t.Errorf("directory has mode %v", info.Mode())
	}
}

func TestRotationKeepsFour(t *testing.T) {
	path := filepath.Join(t.TempDir(), "events.jsonl")
	l := open(t, path, Limits{FileSize: 300})
	for i := range 20 {
		l.Emit(&Event{Time: noon, Flow: fmt.Sprint(i), Details: &Alert{}})
		flush(t, l)
	}
	files, _ := filepath.Glob(path + "*")
	if len(files) != 1+DefaultKeep {
		t.Errorf("files: %v", files)
	}
	if last := readFile(t, path); last[len(last)-1].Flow != "19" {
		t.Errorf("last event in %s is %s", path, last[len(last)-1].Flow)
	}
}

func TestFileRemovedUnderneath(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sub", "events.jsonl")
	l := open(t, path, Limits{})
	l.Emit(&Event{Time: noon, Flow: "1", Kind: "test"})
	flush(t, l)
	if err := os.RemoveAll(filepath.Dir(path)); err != nil {
		t.Fatal(err)
	}
	l.Emit(&Event{Time: noon, Flow: "2", Kind: "test"})
	flush(t, l)
	if got := readFile(t, path); len(got) != 1 || got[0].Flow != "2" {
		t.Errorf("%d events in the new file", len(got))
	}
}

// When path is a symbolic link the file it points to is rotated, and the link stays.
func TestSymlinkStays(t *testing.T) {
	dir := t.TempDir()
	link, target := filepath.Join(dir, "events.jsonl"), filepath.Join(dir, "target.jsonl")
	if err := errors.Join(os.WriteFile(target, nil, 0o600), os.Symlink(target, link)); err != nil {
		t.Fatal(err)
	}
	l := open(t, link, Limits{FileSize: 200})
	for range 5 {
		l.Emit(&Event{Time: noon, Kind: "test"})
		flush(t, l)
	}
	if dest, err := os.Readlink(link); err != nil || dest != target {
		t.Errorf("link is %q, %v", dest, err)
	}
	if _, err := os.Stat(target + ".1"); err != nil {
		t.Error(err)
	}
}

func TestStalledPipe(t *testing.T) {
	r, w := pipe(t)
	l, err := OpenFD(w.Fd(), Limits{Events: 64})
	if err != nil {
		t.Fatal(err)
	}
	const emitted = 20_000
	for i := range emitted {
		l.Emit(&Event{Time: noon, App: "a", Flow: fmt.Sprint(i), Details: &Connect{Protocol: "tcp"}})
	}
	for range 7 {
		l.Emit(&Event{Time: noon, App: "a", Sandbox: "s", Details: &Close{}})
	}
	lost := l.Dropped()
	if lost[KindConnect] == 0 || lost[KindClose] != 7 || len(lost) != 2 {
		t.Fatalf("dropped %v", lost)
	}

	lines := make(chan []*Event)
	go func() { lines <- readAll(t, r) }()
	flush(t, l)
	l.Emit(&Event{Time: noon, Flow: "after", Kind: "test"})
	if err := errors.Join(l.Close(), w.Close()); err != nil {
		t.Fatal(err)
	}
	reported := counts{}
	connects, after, last := uint64(0), 0, -1
	for _, e := range <-lines {
		switch d := e.Details.(type) {
		case *Connect:
			n := 0
			if fmt.Sscan(e.Flow, &n); n <= last {
				t.Fatalf("flow %d after %d", n, last)
			}
			last = n
			connects++
		case *Dropped:
			if d.What != "events" || e.App != "a" {
				t.Errorf("%+v %+v", e, d)
			}
			for _, k := range d.ByKind {
				reported[slot(k.Kind)] += k.Count
			}
		case nil:
			after++
		}
	}
	if connects+lost[KindConnect] != emitted || reported[0] != lost[KindConnect] || reported[1] != 7 || after != 1 {
		t.Errorf("%d of %d written, dropped %v, reported %v, %d after", connects, emitted, lost, reported, after)
	}
}

// A reader that never reads does not hold Close for longer than its bound, and no descriptor or goroutine stays behind.
func TestCloseWithStalledPipe(t *testing.T) {
	t.Parallel()
	_, w := pipe(t)
	l, err := OpenFD(w.Fd(), Limits{})
	if err != nil {
		t.Fatal(err)
	}
	for range 5000 {
		l.Emit(&Event{Time: noon, Details: &Connect{}})
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := l.Flush(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Flush: %v", err)
	}
	if err := l.Close(); err == nil {
		t.Error("Close says nothing of events that were dropped")
	}
	if err := l.Close(); err == nil {
		t.Error("the second Close differs from the first")
	}
	if l.Dropped()[KindConnect] == 0 {
		t.Error("no event counts as dropped")
	}
}

// A process that stopped while it held the lock stalls the log of others, but neither Emit nor, for long, Close.
func TestCloseWithLockedFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "events.jsonl")
	l := open(t, path, Limits{Events: 10})
	holder, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer holder.Close()
	if err := unix.Flock(int(holder.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	for range 25 {
		l.Emit(&Event{Time: noon, Details: &Close{}})
	}
	if n := l.Dropped()[KindClose]; n != 15 {
		t.Errorf("%d dropped while the file was locked, want 15", n)
	}
	if err := l.Close(); err == nil || err.Error() != "close event log: 25 events were dropped" {
		t.Errorf("Close: %v", err)
	}
}

func TestClosedPipe(t *testing.T) {
	r, w := pipe(t)
	l, err := OpenFD(w.Fd(), Limits{})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	l.Emit(&Event{Time: noon, Kind: "test"})
	flush(t, l)
	r.Close()
	for range 10 {
		l.Emit(&Event{Time: noon, Details: &DNSQuery{}})
	}
	if err := l.Flush(context.Background()); err == nil {
		t.Error("Flush says nothing")
	}
	if lost := l.Dropped(); lost[KindDNSQuery] != 10 || len(lost) != 1 {
		t.Errorf("dropped %v", lost)
	}
}

func TestFullDevice(t *testing.T) {
	l := open(t, "/dev/full", Limits{})
	for range 10 {
		l.Emit(&Event{Time: noon, Details: &Close{}})
	}
	if err := l.Flush(context.Background()); err == nil || err.Error() != "flush event log: 10 events were dropped" {
		t.Errorf("Flush: %v", err)
	}
}

// A disk that fills up and is emptied again costs the lines that did not fit, leaves no torn line and says how many.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Skipf("mount a small tmpfs: %v", err)
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	path := filepath.Join(dir, "events.jsonl")
	l := open(t, path, Limits{})
	const emitted = 1000
	for range emitted {
		l.Emit(&Event{Time: noon, Details: &Connect{}})
	}
	if err := l.Flush(context.Background()); err == nil {
		t.Error("Flush says nothing")
	}
	lost := l.Dropped()[KindConnect]
	kept, reported := tally(readFile(t, path))
	if lost == 0 || kept == 0 || kept+lost != emitted {
		t.Errorf("%d written, %d dropped of %d", kept, lost, emitted)
	}
	if err := os.Truncate(path, 0); err != nil {
		t.Fatal(err)
	}
	flush(t, l)
	if _, later := tally(readFile(t, path)); reported+later != lost {
		t.Errorf("%d dropped, %d reported at once and %d after the disk was emptied", lost, reported, later)
	}
}

// tally counts the events written and those that "dropped" events among them report.
func tally(events []*Event) (written, reported uint64) {
	for _, e := range events {
		if d, ok := e.Details.(*Dropped); ok {
			reported += d.Count
		} else {
			written++
		}
	}
	return written, reported
}

func TestOpenFD(t *testing.T) {
	t.Run("file", func(t *testing.T) {
		f, err := os.Create(filepath.Join(t.TempDir(), "f"))
		if err != nil {
			t.Fatal(err)
		}
		logOne(t, f)
		if got := readFile(t, f.Name()); len(got) != 1 {
			t.Errorf("%d lines", len(got))
		}
	})
	for name, kind := range map[string]int{"stream": unix.SOCK_STREAM, "seqpacket": unix.SOCK_SEQPACKET} {
		t.Run(name, func(t *testing.T) {
			fds, err := unix.Socketpair(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			r := os.NewFile(uintptr(fds[0]), "r")
			defer r.Close()
			logOne(t, os.NewFile(uintptr(fds[1]), "w"))
			if got := readAll(t, r); len(got) != 1 {
				t.Errorf("%d lines", len(got))
			}
		})
	}
	t.Run("the pipe of others stays blocking", func(t *testing.T) {
		_, w := pipe(t)
		l, err := OpenFD(w.Fd(), Limits{})
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		if flags, _ := unix.FcntlInt(w.Fd(), unix.F_GETFL, 0); flags&unix.O_NONBLOCK != 0 {
			t.Error("O_NONBLOCK is set on the caller's descriptor")
		}
	})
	t.Run("not open", func(t *testing.T) {
		if _, err := OpenFD(999, Limits{}); err == nil {
			t.Error("no error")
		}
	})
	t.Run("read only", func(t *testing.T) {
		r, _ := pipe(t)
		if _, err := OpenFD(r.Fd(), Limits{}); err == nil {
			t.Error("no error")
		}
	})
}

func TestOpenFileErrors(t *testing.T) {
	dir := t.TempDir()
	for _, path := range []string{dir, filepath.Join(dir, "f", "x"), ""} {
		if err := os.WriteFile(filepath.Join(dir, "f"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if l, err := OpenFile(path, Limits{}); err == nil {
			l.Close()
			t.Errorf("OpenFile(%q) works", path)
		}
	}
}

func TestByteBound(t *testing.T) {
	_, w := pipe(t)
	l, err := OpenFD(w.Fd(), Limits{Bytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	big := strings.Repeat("x", 100<<10)
	for range 100 {
		l.Emit(&Event{Time: noon, Details: &Alert{Subject: big}})
	}
	if n := l.Dropped()[KindAlert]; n < 75 {
		t.Errorf("%d dropped: more than 1 MiB and what a pipe holds was taken", n)
	}
}

func TestEmitAfterClose(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	l := open(t, path, Limits{})
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l.Emit(&Event{Time: noon, Kind: "of-a-later-version"})
	if n := l.Dropped()["other"]; n != 1 {
		t.Errorf("dropped %v", l.Dropped())
	}
}

func TestManyEmitters(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	l := open(t, path, Limits{Events: 128})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 1000 {
				l.Emit(&Event{Time: noon, Details: &Connect{}})
			}
		})
	}
	wg.Wait()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	written, reported := tally(readFile(t, path))
	if written+reported != 8000 || reported != l.Dropped()[KindConnect] {
		t.Errorf("%d written, %d reported, dropped %v", written, reported, l.Dropped())
	}
}

func TestTee(t *testing.T) {
	var a, b Report
	Tee(&a, nil, &b).Emit(examples()[0])
	if len(a.Rows()) != 1 || len(b.Rows()) != 1 {
		t.Error("an event did not reach all sinks")
	}
}

func BenchmarkEmit(b *testing.B) {
	l, err := OpenFile("/dev/null", Limits{})
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	b.ReportAllocs()
	for b.Loop() {
		l.Emit(&Event{Time: noon, App: "a", Sandbox: "s", Details: &Connect{Hostname: "h.example", Protocol: "tcp"}})
	}
}

func open(t *testing.T, path string, limits Limits) *Log {
	t.Helper()
	l, err := OpenFile(path, limits)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func flush(t *testing.T, l *Log) {
	t.Helper()
	if err := l.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// logOne writes one event to w through OpenFD and closes both.
func logOne(t *testing.T, w *os.File) {
	t.Helper()
	l, err := OpenFD(w.Fd(), Limits{})
	if err != nil {
		t.Fatal(err)
	}
	l.Emit(&Event{Time: noon, Details: &Alert{}})
	if err := errors.Join(l.Close(), w.Close()); err != nil {
		t.Fatal(err)
	}
}

func pipe(t *testing.T) (r, w *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	w.Fd() // the blocking mode that a descriptor from elsewhere has
	t.Cleanup(func() { r.Close(); w.Close() })
	return r, w
}

func readFile(t *testing.T, path string) []*Event {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return readAll(t, bytes.NewReader(b))
}

func readAll(t *testing.T, r io.Reader) (events []*Event) {
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		e, err := Parse(lines.Bytes())
		if err != nil {
			t.Errorf("%v: %q", err, lines.Text())
			break
		}
		events = append(events, e)
	}
	return events
}

// counted is an output that keeps how many events each write had.
type counted struct{ writes []int }

func (c *counted) write(_ []byte, ends []int) (int, error) {
	c.writes = append(c.writes, len(ends))
	return len(ends), nil
}
func (c *counted) expire(time.Time) {}
func (c *counted) close() error     { return nil }

// A single event is written at once, those that follow closely are gathered, and Close waits for neither.
func TestLogGathers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := &counted{}
		l := start(out, Limits{}.withDefaults())
		emit := func() { l.Emit(&Event{Details: &Dropped{What: "x", Count: 1}}) }
		emit()
		synctest.Wait()
		if !slices.Equal(out.writes, []int{1}) {
			t.Errorf("the first event: writes of %v events", out.writes)
		}
		for range 10 {
			emit()
			time.Sleep(gatherFor / 10)
		}
		synctest.Wait()
		if !slices.Equal(out.writes, []int{1, 10}) {
			t.Errorf("ten more in the time of one write: writes of %v events", out.writes)
		}
		emit()
		began := time.Now()
		l.Close()
		if len(out.writes) != 3 || time.Since(began) > 0 {
			t.Errorf("writes of %v events, Close took %v", out.writes, time.Since(began))
		}
	})
}
