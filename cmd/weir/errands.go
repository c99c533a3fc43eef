package main

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/time/rate"

	"github.com/weir-dev/weir/flow/event"
	"github.com/weir-dev/weir/internal/attribution"
)

// The data path has no way to other processes and to the host's files (see package lockdown). What it has to know of them
// it asks the launcher, over a socketpair of its own. There are two questions, and what they answer is all that a data
// path in the wrong hands gets out of the launcher:
//
//	whose flow is this?   the process inside that holds the flow's socket: pid, executable, arguments
//	open this file        the host's resolv.conf or hosts, for reading
//
// An answer carries the serial number of its question. The launcher answers one after the other.

const (
	// maxErrand bounds one question or answer in octets; a command line is the largest thing in it.
	maxErrand = 16 << 10

	// maxErrands bounds the questions that wait for an answer; what is over is answered with no.
	maxErrands = 64

	// errandTimeout is how long the data path waits: a program inside can make itself slow to look at.
	errandTimeout = 500 * time.Millisecond
)

// errand is one question: about a flow, or for a file.
type errand struct {
	Serial   uint64
	Network  string         `json:",omitempty"`
	Src, Dst netip.AddrPort `json:",omitzero"`
	File     string         `json:",omitempty"`
}

// errandAnswer is its answer. Exe and Args, each argument with a NUL behind it, are the program's own octets.
type errandAnswer struct {
	Serial uint64
	PID    int    `json:",omitempty"` // 0: nobody was found
	Exe    []byte `json:",omitempty"`
	Args   []byte `json:",omitempty"`
	Error  string `json:",omitempty"` // why there is no file
}

// serveErrands answers the data path until it is gone. remote is its end of the socketpair.
func (l *launch) serveErrands() (remote *os.File, err error) {
	conn, remote, err := newControlPair(maxErrand)
	if err != nil {
		return nil, err
	}
	diag := l.box.DiagSocket()
	finder := attribution.New(l.box.InitPID(), diag)
	go func() {
		defer conn.Close()
		defer diag.Close() // of a nil *os.File is an error and nothing else
		for {
			var q errand
			files, err := conn.receive(&q)
			closeAll(files)
			if err != nil || runErrand(conn, finder, q) != nil {
				return
			}
		}
	}()
	return remote, nil
}

func runErrand(conn *controlConn, finder *attribution.Finder, q errand) error {
	a := errandAnswer{Serial: q.Serial}
	if q.File != "" {
		f, err := openHostFile(q.File)
		if err != nil {
			a.Error = err.Error()
			return conn.send(a)
		}
		defer f.Close()
		return conn.send(a, f)
	}
	if p, ok := finder.Find(q.Network, q.Src, q.Dst); ok {
		a.PID, a.Exe = p.PID, []byte(p.Exe)
		for len(p.Args) > 0 && p.Args[len(p.Args)-1] == "" { // what a program that renamed itself leaves behind
			p.Args = p.Args[:len(p.Args)-1]
		}
		for _, arg := range p.Args {
			a.Args = append(append(a.Args, arg...), 0)
		}
	}
	return conn.send(a)
}

// openHostFile opens one of the files that the data path may read.
func openHostFile(path string) (*os.File, error) {
	if path != "/etc/resolv.conf" && path != "/etc/hosts" {
		return nil, fmt.Errorf("open %q for data path: %w", path, os.ErrPermission)
	}
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
	conn  *controlConn
	limit *rate.Limiter // questions that the launcher would not look into need not be asked

	mu      sync.Mutex
	serial  uint64
	waiting map[uint64]chan<- errandResult // nil for those that nobody waits for any more
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
	e := &errands{
		conn: conn, waiting: make(map[uint64]chan<- errandResult),
		limit: rate.NewLimiter(attribution.LookupsPerSecond, attribution.LookupBurst),
	}
	go e.receive()
	return e, nil
}

// owner is the process inside that a flow belongs to, nil when that is not known.
func (e *errands) owner(network string, src, dst netip.AddrPort) *event.Process {
	if !e.limit.Allow() {
		return nil
	}
	r, err := e.ask(errand{Network: network, Src: src, Dst: dst})
	closeAll(r.files)
	if err != nil || r.answer.PID == 0 {
		return nil
	}
	p := &event.Process{PID: r.answer.PID, Exe: string(r.answer.Exe)}
	for arg := range bytes.SplitSeq(bytes.TrimSuffix(r.answer.Args, []byte{0}), []byte{0}) {
		if len(r.answer.Args) > 0 {
			p.Args = append(p.Args, string(arg))
		}
	}
	return p
}

// open opens the host's resolv.conf or hosts. The file is the caller's.
func (e *errands) open(path string) (*os.File, error) {
	r, err := e.ask(errand{File: path})
	switch {
	case err != nil:
		return nil, err
	case len(r.files) == 1:
		return r.files[0], nil
	}
	closeAll(r.files)
	return nil, fmt.Errorf("open %s through launcher: %s", path, r.answer.Error)
}

func (e *errands) ask(q errand) (errandResult, error) {
	answer := make(chan errandResult, 1)
	serial, err := e.post(q, answer)
	if err != nil {
		return errandResult{}, err
	}
	patience := time.NewTimer(errandTimeout)
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
func (e *errands) post(q errand, answer chan<- errandResult) (uint64, error) {
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
	to := e.waiting[r.answer.Serial]
	delete(e.waiting, r.answer.Serial)
	if to == nil {
		return false
	}
	to <- r
	return true
}

func (e *errands) fail(err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.failed = err
	for _, to := range e.waiting {
		if to != nil {
			close(to)
		}
	}
	clear(e.waiting)
}
