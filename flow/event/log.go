package event

import (
	"context"
	"fmt"
	"os"
	"time"
)

// Bounds of a [Log] where [Limits] says nothing else.
const (
	defaultEvents = 8192
	defaultBytes  = 8 << 20

	// DefaultFileSize and DefaultKeep are the Limits.FileSize and Limits.Keep of whoever says nothing else.
	DefaultFileSize = 64 << 20
	DefaultKeep     = 4

	// batchEvents is the most that one round of the writer takes; batchBytes is when it stops to encode more.
	batchEvents = 256
	batchBytes  = 256 << 10

	// gatherFor is how far apart writes are while events keep coming, and so how much a SIGKILL can take with it; the first one
	// after a pause is written at once.
	gatherFor = 20 * time.Millisecond

	// closeTimeout bounds Close; retryEvery is how often a line that reports drops is tried when nothing else happens.
	closeTimeout = 2 * time.Second
	retryEvery   = time.Second
)

// Limits bounds a [Log]. Zero fields stand for the defaults.
type Limits struct {
	// Events and Bytes bound what is queued: 8192 events, 8 MiB of memory.
	Events, Bytes int

	// FileSize is when the file is rotated, in octets (64 MiB); Keep how many rotated files are kept (4).
	FileSize int64
	Keep     int
}

// Log is the [Sink] that writes lines. Make one with [OpenFile] or [OpenFD].
type Log struct {
	limiter *limiter
	queue   queue
	out     output

	// waiters asks the writer for a round although nothing is new; it closes the channel it got when the round is over.
	waiters chan chan struct{}
	closing chan struct{}
	done    chan struct{}

	buf   []byte
	ends  []int
	batch []*Event
}

// output is where lines go. Only the writer goroutine calls write; expire may come from any goroutine.
type output interface {
	// write writes the lines b[:ends[0]], b[ends[0]:ends[1]] ... and returns how many of them are out whole.
	write(b []byte, ends []int) (int, error)

	// expire makes a write that is blocked, and every later one that would block, fail at t.
	expire(t time.Time)

	close() error
}

// OpenFile opens the log at path for appending. A directory that is missing is made with mode 0700, the file with mode
// 0600. Many processes may write to one path: each write is made of whole lines and happens under flock(2), and at
// limits.FileSize the file becomes path.1, path.1 becomes path.2, and so on, up to limits.Keep. When the files cannot be
// renamed the log goes on in the same file. A path that is a pipe or a device is written to as [OpenFD] does.
func OpenFile(path string, limits Limits) (*Log, error) { return OpenFileBy(Disk{}, path, limits) }

// OpenFileBy is [OpenFile] for a process that may not open or rename files itself. Whether path still names the open file it
// asks [os.Stat] all the same.
func OpenFileBy(files Files, path string, limits Limits) (*Log, error) {
	limits = limits.withDefaults()
	out, err := openPath(files, path, limits)
	if err != nil {
		return nil, fmt.Errorf("open event log: %w", err)
	}
	return start(out, limits), nil
}

// OpenFD makes a log on an open pipe, socket, terminal or file. The descriptor is duplicated: the caller keeps its own and
// closes it whenever it likes. One line is one write(2). A socket becomes non-blocking, also for others who share it.
func OpenFD(fd uintptr, limits Limits) (*Log, error) {
	out, err := openDescriptor(int(fd))
	if err != nil {
		return nil, fmt.Errorf("open event log on descriptor %d: %w", fd, err)
	}
	return start(out, limits.withDefaults()), nil
}

func (l Limits) withDefaults() Limits {
	if l.Events <= 0 {
		l.Events = defaultEvents
	}
	if l.Bytes <= 0 {
		l.Bytes = defaultBytes
	}
	if l.FileSize <= 0 {
		l.FileSize = DefaultFileSize
	}
	if l.Keep <= 0 {
		l.Keep = DefaultKeep
	}
	return l
}

func start(out output, limits Limits) *Log {
	l := &Log{
		limiter: newLimiter(),
		queue:   queue{ring: make([]*Event, limits.Events), maxBytes: limits.Bytes, wake: make(chan struct{}, 1)},
		out:     out,
		waiters: make(chan chan struct{}),
		closing: make(chan struct{}),
		done:    make(chan struct{}),
	}
	go l.write()
	return l
}

// Emit queues the event. It never blocks: when the ring is full, or the log closed, the event is dropped and counted. One
// that comes too soon after many of its kind (see [DeniedRate]) is suppressed: an event of kind "dropped" and What
// "events-suppressed" says how many, once a second while there are any and before the sandbox's exit. What was written and
// what such events say adds up to what was emitted.
func (l *Log) Emit(e *Event) {
	if !l.limiter.allow(e) {
		l.queue.suppress(e)
		return
	}
	l.queue.put(e)
}

// Dropped returns how many events were dropped since the log was opened, by kind; kinds without a drop are absent.
func (l *Log) Dropped() map[Kind]uint64 {
	total, _ := l.queue.dropped()
	return total.byKind()
}

// Suppressed returns how many events were not written because there were too many of their kind, since the log was opened.
func (l *Log) Suppressed() map[Kind]uint64 {
	total := l.queue.suppressedSince()
	return total.byKind()
}

func (c *counts) byKind() map[Kind]uint64 {
	m := make(map[Kind]uint64)
	for i, n := range c {
		if n > 0 {
			m[kinds[i]] = n
		}
	}
	return m
}

// Flush waits until every event emitted before the call has been written or dropped, and a line about drops was tried.
// It returns ctx's error when that ends first, and an error when there are drops that no line could report yet.
func (l *Log) Flush(ctx context.Context) error {
	target, _ := l.queue.progress()
	for {
		round := make(chan struct{})
		select {
		case l.waiters <- round:
		case <-l.done:
		case <-ctx.Done():
			return fmt.Errorf("flush event log: %w", ctx.Err())
		}
		select {
		case <-round:
		case <-l.done:
		case <-ctx.Done():
			return fmt.Errorf("flush event log: %w", ctx.Err())
		}
		if _, finished := l.queue.progress(); finished >= target {
			return l.unreported("flush event log")
		}
	}
}

// Close writes what is queued and closes the log; both together take at most about two seconds, what cannot be written
// by then is dropped. It returns an error when drops could not be reported in the log. It may be called more than once.
func (l *Log) Close() error {
	if l.queue.shut() {
		close(l.closing)
		l.out.expire(time.Now().Add(closeTimeout))
	}
	select {
	case <-l.done:
		return l.unreported("close event log")
	case <-time.After(closeTimeout + time.Second):
		return fmt.Errorf("close event log: %w", os.ErrDeadlineExceeded)
	}
}

func (l *Log) unreported(operation string) error {
	if _, pending := l.queue.dropped(); pending.sum() > 0 {
		return fmt.Errorf("%s: %d events were dropped", operation, pending.sum())
	}
	if e := l.queue.unsaid(); e != nil {
		return fmt.Errorf("%s: nothing says how many events were suppressed", operation)
	}
	return nil
}

// write is the writer goroutine: it lives from start to Close.
func (l *Log) write() {
	defer close(l.done)
	defer l.out.close()
	retry := time.NewTimer(retryEvery)
	defer retry.Stop()
	var last time.Time
	for {
		var round chan struct{}
		select {
		case <-l.queue.wake:
			round = l.gather(time.Until(last.Add(gatherFor)))
		case round = <-l.waiters:
		case <-retry.C:
		}
		if l.queue.summarizeEvery(summaryEvery) {
			retry.Reset(retryEvery)
		}
		more, closed := true, false
		for more {
			more, closed = l.writeBatch()
			if l.report() {
				retry.Reset(retryEvery)
			}
		}
		last = time.Now()
		if round != nil {
			close(round)
		}
		if closed {
			l.lastSummary()
			return
		}
	}
}

// lastSummary says what was suppressed and did not get into the queue any more.
func (l *Log) lastSummary() {
	e := l.queue.unsaid()
	if e == nil {
		return
	}
	e.Time = time.Now()
	l.buf = append(e.AppendJSON(l.buf[:0]), '\n')
	if written, _ := l.out.write(l.buf, []int{len(l.buf)}); written > 0 {
		l.queue.said()
	}
}

// gather waits for d, so that what is emitted meanwhile is written together. Who waits for the log is not kept waiting:
// its round is returned at once.
func (l *Log) gather(d time.Duration) (round chan struct{}) {
	if d <= 0 {
		return nil
	}
	pause := time.NewTimer(d)
	defer pause.Stop()
	select {
	case <-pause.C:
	case round = <-l.waiters:
	case <-l.closing:
	}
	return round
}

// writeBatch writes some of the queued events and reports whether there may be more.
func (l *Log) writeBatch() (more, closed bool) {
	l.batch, closed = l.queue.peek(l.batch[:0], batchEvents)
	l.buf, l.ends = l.buf[:0], l.ends[:0]
	for _, e := range l.batch {
		l.buf = append(e.AppendJSON(l.buf), '\n')
		if l.ends = append(l.ends, len(l.buf)); len(l.buf) >= batchBytes {
			break
		}
	}
	clear(l.batch)
	if len(l.ends) == 0 {
		return false, closed
	}
	written, _ := l.out.write(l.buf, l.ends)
	l.queue.pop(len(l.ends), written)
	return true, closed
}

// report writes the line about events that were dropped, if there are any, and reports whether it is still owed.
func (l *Log) report() (owed bool) {
	e, drops := l.queue.owed()
	if e == nil {
		return false
	}
	e.Time = time.Now()
	l.buf = append(e.AppendJSON(l.buf[:0]), '\n')
	if written, _ := l.out.write(l.buf, []int{len(l.buf)}); written == 0 {
		return true
	}
	l.queue.reported(drops)
	return false
}
