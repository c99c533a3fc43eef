package resolver

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/miekg/dns"

	"github.com/weir-dev/weir/internal/stub"
)

// maxConnFlight is how many questions of one TCP connection are at work at one time; then it is not read further.
const maxConnFlight = 64

// maxDatagrams is how many datagrams are looked at at one time, those that are refused because too many are in flight
// included; what comes beyond them is dropped, as a socket would.
const maxDatagrams = 2 * DefaultInFlight

// serveUDP reads questions until pc fails and returns when all are answered.
func (s *Server) serveUDP(ctx context.Context, pc net.PacketConn) error {
	var work sync.WaitGroup
	defer work.Wait()
	server := pc.LocalAddr().String()
	slots := make(chan struct{}, maxDatagrams)
	buf := make([]byte, dns.MaxMsgSize)
	var failed patience
	for {
		n, from, err := pc.ReadFrom(buf)
		if failed.out(ctx, err) {
			return fmt.Errorf("read dns datagram: %w", err)
		}
		if err != nil {
			continue
		}
		select {
		case slots <- struct{}{}:
		default:
			s.counters.udpDropped.Add(1)
			continue
		}
		raw := append([]byte(nil), buf[:min(n, maxQuestion+1)]...)
		work.Go(func() {
			defer func() { <-slots }()
			if answer := s.handle(ctx, raw, server, 0); answer != nil {
				if _, err := pc.WriteTo(answer, from); err != nil {
					s.debug("write dns datagram", err)
				}
			}
		})
	}
}

// serveTCP accepts connections until ln fails and returns when all are done.
func (s *Server) serveTCP(ctx context.Context, ln net.Listener) error {
	var work sync.WaitGroup
	defer work.Wait()
	slots := make(chan struct{}, MaxConns)
	var failed patience
	for {
		c, err := ln.Accept()
		if failed.out(ctx, err) {
			return fmt.Errorf("accept dns connection: %w", err)
		}
		if err != nil {
			continue
		}
		select {
		case slots <- struct{}{}:
			work.Go(func() {
				s.serveConn(ctx, c)
				<-slots
			})
		default:
			s.counters.tcpLimited.Add(1)
			c.Close()
		}
	}
}

// serveConn answers the questions of one connection, each as soon as its answer is there (RFC 7766 section 6.2.1.1). A
// client that has sent its last question still gets the answers.
func (s *Server) serveConn(ctx context.Context, c net.Conn) {
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	var (
		work  sync.WaitGroup
		write sync.Mutex
		slots = make(chan struct{}, maxConnFlight)
	)
	defer work.Wait()
	for {
		c.SetReadDeadline(time.Now().Add(ConnIdle))
		raw, err := readQuestion(c)
		if err != nil {
			if errors.Is(err, errTooLong) {
				s.counters.malformed.Add(1)
			}
			if !errors.Is(err, io.EOF) {
				s.debug("read dns connection", err)
			}
			return
		}
		slots <- struct{}{}
		work.Go(func() {
			defer func() { <-slots }()
			answer := s.handle(ctx, raw, c.LocalAddr().String(), dns.MaxMsgSize)
			if answer == nil {
				return
			}
			write.Lock()
			defer write.Unlock()
			c.SetWriteDeadline(time.Now().Add(ConnIdle))
			if _, err := c.Write(stub.Frame(answer)); err != nil {
				s.debug("write dns connection", err)
				c.Close()
			}
		})
	}
}

// patience counts failures in a row of a listener that is still open: one that passes (an ICMP error, no more file
// descriptors) must not end the sandbox's DNS, one that stays must not spin.
type patience int

const maxFailures = 50

func (p *patience) out(ctx context.Context, err error) bool {
	if err == nil {
		*p = 0
		return false
	}
	if *p++; ctx.Err() != nil || errors.Is(err, net.ErrClosed) || *p > maxFailures {
		return true
	}
	time.Sleep(10 * time.Millisecond)
	return false
}

var errTooLong = errors.New("question is too long")

// readQuestion is [stub.ReadFrame] for messages that must not be longer than a question.
func readQuestion(r io.Reader) ([]byte, error) {
	var size [2]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return nil, err
	}
	if binary.BigEndian.Uint16(size[:]) > maxQuestion {
		return nil, errTooLong
	}
	return stub.ReadFrame(io.MultiReader(bytes.NewReader(size[:]), r))
}
