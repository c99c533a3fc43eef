//go:build linux && !client

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weir-dev/weir/flow/event"
)

// The data path has no way to other processes and to the host's files (see package lockdown). What it needs of them the
// launcher does for it, asked over a socketpair of its own. This is all that a data path in the wrong hands gets out of
// the launcher:
//
//	whose flow is this?   the process inside that holds the flow's socket: pid, executable, arguments (owners.go)
//	open this file        the host's resolv.conf or hosts for reading, this run's event log for appending
//	rotate the log        when it has grown long enough
//	join the edge         that serves this user's sandboxes, in the name of this one
//
// All but the first are here. An answer carries the serial number of its question. The launcher answers one after the other.

const (
	// maxErrand bounds one question or answer in octets.
	maxErrand = 4 << 10

	// maxErrands bounds the questions that wait for an answer; what is over is answered with no.
	maxErrands = 16

	// fileTimeout is how long the data path waits for a file, which may be on a slow disk and which the user has chosen.
	fileTimeout = 10 * time.Second
)

// errand is one question.
type errand struct {
	Serial uint64
	File   string // /etc/resolv.conf, /etc/hosts, logFile, edgeFile
	Rotate bool   `json:",omitempty"`
}

// logFile stands for the event log of the run, whatever its path.
const logFile = "log"

// edgeFile stands for a socket to the edge that is running.
const edgeFile = "edge"

// errandAnswer is its answer.
type errandAnswer struct {
	Serial uint64
	Error  string `json:",omitempty"` // why there is no file, or no rotation
}

// serveErrands answers the data path until it is gone. remote is its end of the socketpair.
func (l *launch) serveErrands() (remote *os.File, err error) {
	conn, remote, err := newControlPair(maxErrand)
	if err != nil {
		return nil, err
	}
	r := runner{log: l.eventsTarget.path}
	if l.joins() {
		r.join = l.joinEdge
	}
	if path, err := filepath.EvalSymlinks(r.log); err == nil {
		r.log = path
	}
	go func() {
		defer conn.Close()
		r.serve(conn)
	}()
	return remote, nil
}

// runner runs the errands of one data path.
type runner struct {
	log  string // the path of the event log, without symbolic links; "" where the log is a descriptor
	disk event.Disk
	join func() (*os.File, error) // nil where no edge is to be joined

	joined time.Time // when an edge was last asked: each connection begins with a new share of everything
}

func (r *runner) serve(conn *controlConn) {
	for {
		var q errand
		files, err := conn.receive(&q)
		closeAll(files)
		if err == nil {
			err = r.run(conn, q)
		}
		if err != nil {
			return
		}
	}
}

func (r *runner) run(conn *controlConn, q errand) error {
	a := errandAnswer{Serial: q.Serial}
	f, err := r.file(q)
	if err != nil {
		a.Error = err.Error()
	}
	if f == nil {
		return conn.send(a)
	}
	defer f.Close()
	return conn.send(a, f)
}

// file opens or rotates one of the files that the data path may ask for.
func (r *runner) file(q errand) (*os.File, error) {
	switch {
	case q.File == logFile && r.log != "" && q.Rotate:
		return nil, r.rotate()
	case q.File == logFile && r.log != "":
		return r.disk.Open(r.log)
	case q.File == edgeFile && r.join != nil:
		if time.Since(r.joined) < rejoinEvery/2 { // the data path does not ask as often
			return nil, errors.New("join edge: too soon")
		}
		r.joined = time.Now()
		return r.join()
	case q.File == "/etc/resolv.conf" || q.File == "/etc/hosts":
		return openRegular(q.File)
	}
	return nil, fmt.Errorf("open %q for data path: %w", q.File, os.ErrPermission)
}

// rotate rotates the log, but no short one: older lines are not to be pushed out.
func (r *runner) rotate() error {
	info, err := os.Stat(r.log)
	if err == nil && info.Size() < event.DefaultFileSize/2 {
		err = fmt.Errorf("rotate event log: %d octets are too few", info.Size())
	}
	if err != nil {
		return err
	}
	return r.disk.Rotate(r.log, event.DefaultKeep)
}

func openRegular(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		f.Close()
		return nil, errors.Join(fmt.Errorf("open %s for data path: not a regular file", path), err)
	}
	return f, nil
}

// errands is the data path's side. It is safe for concurrent use.
type errands struct {
	conn *controlConn

	mu      sync.Mutex
	serial  uint64
	waiting map[uint64]chan<- errandResult // nil where nobody waits any more
	failed  error                          // why there are no answers any more
}

type errandResult struct {
	answer errandAnswer
	files  []*os.File
}

var errNoErrand = errors.New("the launcher was asked too much, or does not answer")

// newErrands takes over the socket. It reads until the launcher has gone.
func newErrands(f *os.File) (*errands, error) {
	if f == nil {
		return nil, errors.New("open errand socket: it did not come")
	}
	conn, err := openControl(f, maxErrand)
	if err != nil {
		return nil, err
	}
	e := &errands{conn: conn, waiting: make(map[uint64]chan<- errandResult)}
	go e.receive()
	return e, nil
}

// open opens the host's resolv.conf or hosts for reading, or the event log. The file is the caller's.
func (e *errands) open(path string) (*os.File, error) {
	r, err := e.ask(errand{File: path}, fileTimeout)
	switch {
	case err != nil:
		return nil, fmt.Errorf("open %s: %w", path, err)
	case len(r.files) == 1:
		return r.files[0], nil
	}
	closeAll(r.files)
	return nil, errors.New(r.answer.Error)
}

// logFiles are the data path's event.Files. The launcher goes by its own path and bounds.
type logFiles struct{ *errands }

// Open implements event.Files.
func (l logFiles) Open(string) (*os.File, error) { return l.open(logFile) }

// Rotate implements event.Files.
func (l logFiles) Rotate(string, int) error {
	r, err := l.ask(errand{File: logFile, Rotate: true}, fileTimeout)
	closeAll(r.files)
	if err == nil && r.answer.Error != "" {
		err = errors.New(r.answer.Error)
	}
	return err
}

func (e *errands) ask(q errand, timeout time.Duration) (errandResult, error) {
	answer := make(chan errandResult, 1)
	serial, err := e.post(q, answer)
	if err != nil {
		return errandResult{}, err
	}
	patience := time.NewTimer(timeout)
	defer patience.Stop()
	select {
	case r, ok := <-answer:
		if !ok {
			return errandResult{}, errNoErrand
		}
		return r, nil
	case <-patience.C:
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if _, waits := e.waiting[serial]; waits {
		e.waiting[serial] = nil
		return errandResult{}, errNoErrand
	}
	r, ok := <-answer // it came at the last moment
	if !ok {
		return r, errNoErrand
	}
	return r, nil
}

// post sends the question. The socket holds more than all the questions that may be open, so this does not block.
func (e *errands) post(q errand, answer chan<- errandResult) (serial uint64, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.failed != nil {
		return 0, e.failed
	}
	if len(e.waiting) >= maxErrands {
		return 0, errNoErrand
	}
	e.serial++
	q.Serial = e.serial
	if err := e.conn.send(q); err != nil {
		return 0, err
	}
	e.waiting[q.Serial] = answer
	return q.Serial, nil
}

// receive hands each answer to who waits for it.
func (e *errands) receive() {
	defer e.conn.Close()
	for {
		var r errandResult
		var err error
		if r.files, err = e.conn.receive(&r.answer); err != nil {
			e.fail(err)
			return
		}
		if !e.deliver(r) {
			closeAll(r.files)
		}
	}
}

// deliver reports false for an answer that nobody waits for any more.
func (e *errands) deliver(r errandResult) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	answer := e.waiting[r.answer.Serial]
	delete(e.waiting, r.answer.Serial)
	if answer == nil {
		return false
	}
	answer <- r
	return true
}

func (e *errands) fail(err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.failed = err
	for _, answer := range e.waiting {
		if answer != nil {
			close(answer)
		}
	}
	clear(e.waiting)
}
