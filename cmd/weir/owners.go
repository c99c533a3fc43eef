//go:build linux && !client

package main

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"

	"golang.org/x/time/rate"

	"github.com/weir-dev/weir/flow/event"
	"github.com/weir-dev/weir/internal/attribution"
)

// Whose flow is this? That is the errand of each flow, so it has a socket of its own and a format that costs little: many
// questions and many answers go by one system call each. All numbers are big endian.
//
//	question   serial (4), 't' or 'u' (1), 0 (1), source and destination: address (16, IPv4 mapped), port (2)
//	answer     length of what follows (2), serial (4), pid (4), length of exe (2), exe, args: each with a NUL behind it
//
// The answer about a flow that nobody is found for has pid 0. Answers come in the order of the questions.

const (
	questionLen  = 4 + 2 + 2*(16+2)
	answerHead   = 2 + 4 + 4 + 2
	maxOwnerText = 12 << 10 // of exe and args; package attribution gives less

	// maxOwners bounds the questions that are under way; those behind them wait in this process, of which the gate has a
	// bound.
	maxOwners = 48

	// maxKnownOwners bounds the processes whose description is kept, so that a thousand flows of one have it once.
	maxKnownOwners = 64
)

// ownerQuestion is a flow.
type ownerQuestion struct {
	serial   uint32
	network  string
	src, dst netip.AddrPort
}

// appendQuestion appends q as it goes over the socket.
func appendQuestion(b []byte, q ownerQuestion) []byte {
	b = binary.BigEndian.AppendUint32(b, q.serial)
	b = append(b, q.network[0], 0)
	for _, at := range []netip.AddrPort{q.src, q.dst} {
		addr := at.Addr().As16()
		b = binary.BigEndian.AppendUint16(append(b, addr[:]...), at.Port())
	}
	return b
}

// parseQuestion is its inverse. b has questionLen octets.
func parseQuestion(b []byte) ownerQuestion {
	q := ownerQuestion{serial: binary.BigEndian.Uint32(b)}
	switch b[4] {
	case 't':
		q.network = "tcp"
	case 'u':
		q.network = "udp"
	}
	at := func(b []byte) netip.AddrPort {
		return netip.AddrPortFrom(netip.AddrFrom16([16]byte(b)).Unmap(), binary.BigEndian.Uint16(b[16:]))
	}
	q.src, q.dst = at(b[6:]), at(b[24:])
	return q
}

// appendOwner appends the answer to a question.
func appendOwner(b []byte, serial uint32, p attribution.Process) []byte {
	start := len(b)
	b = append(b, 0, 0)
	b = binary.BigEndian.AppendUint32(b, serial)
	b = binary.BigEndian.AppendUint32(b, uint32(p.PID))
	exe := p.Exe[:min(len(p.Exe), maxOwnerText/2)]
	b = append(binary.BigEndian.AppendUint16(b, uint16(len(exe))), exe...)
	args := p.Args
	for len(args) > 0 && args[len(args)-1] == "" { // what a program that renamed itself leaves behind
		args = args[:len(args)-1]
	}
	for _, arg := range args {
		if len(b)-start+len(arg) >= maxOwnerText {
			break
		}
		b = append(append(b, arg...), 0)
	}
	binary.BigEndian.PutUint16(b[start:], uint16(len(b)-start-2))
	return b
}

// serveOwners answers the data path until it is gone. remote is its end of the socket.
func (l *launch) serveOwners() (remote *os.File, err error) {
	local, remote, err := newOwnerPair()
	if err != nil {
		return nil, err
	}
	diag := l.box.DiagSocket()
	finder := attribution.New(l.box.InitPID(), diag)
	go func() {
		defer local.Close()
		defer diag.Close() // of a nil *os.File is an error and nothing else
		defer finder.Close()
		answerOwners(local, finder.Find)
	}()
	return remote, nil
}

// newOwnerPair makes the two ends; remote is the other process's, and to be closed here when that has it.
func newOwnerPair() (local net.Conn, remote *os.File, err error) {
	conn, remote, err := newControlPair(0)
	if err != nil {
		return nil, nil, err
	}
	return conn.c, remote, nil
}

// answerOwners answers all questions that one read brings with one write, until the data path is gone.
func answerOwners(conn net.Conn, find func(network string, src, dst netip.AddrPort) (attribution.Process, bool)) {
	questions, answers := make([]byte, maxOwners*questionLen), []byte(nil)
	have := 0
	for {
		n, err := conn.Read(questions[have:])
		if err != nil {
			return
		}
		have += n
		answers = answers[:0]
		rest := questions[:have]
		for ; len(rest) >= questionLen; rest = rest[questionLen:] {
			q := parseQuestion(rest)
			p, ok := find(q.network, q.src, q.dst)
			if !ok {
				p = attribution.Process{}
			}
			answers = appendOwner(answers, q.serial, p)
		}
		have = copy(questions, rest)
		if _, err := conn.Write(answers); err != nil {
			return
		}
	}
}

// owners is the data path's side. It is safe for concurrent use.
type owners struct {
	conn  net.Conn
	limit *rate.Limiter // questions that the launcher would not look into need not be asked

	mu      sync.Mutex
	serial  uint32
	waiting map[uint32]func(*event.Process)
	asked   int    // questions under way
	queue   []byte // questions that wait for their turn
	failed  bool   // there are no answers any more

	known map[string]*event.Process // by pid, exe and args as they come; only receive uses it
}

// newOwners takes over the socket. It reads until the launcher has gone.
func newOwners(f *os.File) (*owners, error) {
	if f == nil {
		return nil, errors.New("open owner socket: it did not come")
	}
	conn, err := openControl(f, 0)
	if err != nil {
		return nil, err
	}
	o := &owners{
		conn: conn.c, limit: rate.NewLimiter(attribution.LookupsPerSecond, attribution.LookupBurst),
		waiting: make(map[uint32]func(*event.Process)), known: make(map[string]*event.Process),
	}
	go o.receive()
	return o, nil
}

// find asks for the process inside that a flow belongs to. It calls found once, with nil when that is not known: now, or
// when the answer comes.
func (o *owners) find(network string, src, dst netip.AddrPort, found func(*event.Process)) {
	if !o.limit.Allow() || !o.ask(ownerQuestion{network: network, src: src, dst: dst}, found) {
		found(nil)
	}
}

func (o *owners) ask(q ownerQuestion, found func(*event.Process)) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.failed {
		return false
	}
	o.serial++
	q.serial = o.serial
	o.waiting[q.serial] = found
	o.queue = appendQuestion(o.queue, q)
	o.send()
	return true
}

// send sends the questions whose turn it is. The socket holds more than maxOwners, so this does not block. The caller holds
// the lock.
func (o *owners) send() {
	n := min(maxOwners-o.asked, len(o.queue)/questionLen)
	if n <= 0 {
		return
	}
	o.asked += n
	o.conn.Write(o.queue[:n*questionLen]) // an error is the receiver's, too
	o.queue = o.queue[:copy(o.queue, o.queue[n*questionLen:])]
}

// receive hands each answer to who waits for it.
func (o *owners) receive() {
	defer o.conn.Close()
	r := bufio.NewReaderSize(o.conn, 16<<10)
	for {
		serial, p, err := o.next(r)
		if err != nil {
			break
		}
		o.mu.Lock()
		found := o.waiting[serial]
		delete(o.waiting, serial)
		o.asked--
		if r.Buffered() == 0 || o.asked <= 0 {
			o.send()
		}
		o.mu.Unlock()
		if found != nil {
			found(p)
		}
	}
	o.mu.Lock()
	o.failed = true
	waiting := o.waiting
	o.waiting, o.queue = nil, nil
	o.mu.Unlock()
	for _, found := range waiting {
		found(nil)
	}
}

// next reads one answer. p is nil when nobody was found; it is shared by all flows of the process, so nobody writes to it.
func (o *owners) next(r *bufio.Reader) (serial uint32, p *event.Process, err error) {
	head, err := r.Peek(2)
	if err != nil {
		return 0, nil, err
	}
	size := 2 + int(binary.BigEndian.Uint16(head))
	b, err := r.Peek(size)
	if err != nil {
		return 0, nil, err
	}
	defer r.Discard(size)
	if size < answerHead {
		return 0, nil, fmt.Errorf("read owner: %d octets: %w", size, io.ErrUnexpectedEOF)
	}
	serial = binary.BigEndian.Uint32(b[2:])
	p, err = o.process(b[6:])
	return serial, p, err
}

// process reads pid, exe and args.
func (o *owners) process(b []byte) (*event.Process, error) {
	pid := binary.BigEndian.Uint32(b)
	if pid == 0 {
		return nil, nil
	}
	if p := o.known[string(b)]; p != nil {
		return p, nil
	}
	text := b[6:]
	n := int(binary.BigEndian.Uint16(b[4:]))
	if n > len(text) {
		return nil, fmt.Errorf("read owner: %w", io.ErrUnexpectedEOF)
	}
	p := &event.Process{PID: int(pid), Exe: string(text[:n])}
	for args := text[n:]; len(args) > 0; {
		arg, rest, _ := bytes.Cut(args, []byte{0})
		p.Args, args = append(p.Args, string(arg)), rest
	}
	if len(o.known) >= maxKnownOwners {
		clear(o.known)
	}
	o.known[string(b)] = p
	return p, nil
}
