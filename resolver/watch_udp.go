package resolver

import (
	"errors"
	"fmt"
	"io"

	"github.com/miekg/dns"
)

func (w *watch) upUDP() error {
	buf := make([]byte, dns.MaxMsgSize)
	for {
		n, err := w.read(w.client, buf, 0)
		if err != nil {
			return ended("read from dns client", err)
		}
		answer, err := w.judge(buf[:n])
		switch {
		case err != nil:
			return err
		case answer != nil:
			w.mu.Lock()
			_, err = w.client.Write(answer)
			w.mu.Unlock()
		default:
			err = w.send(buf[:n])
		}
		if err != nil { // a datagram may be lost; a side that is gone is seen by its reader
			w.s.counters.watchDropped.Add(1)
			w.s.debug("watch dns datagrams", err)
		}
	}
}

func (w *watch) downUDP() error {
	buf := make([]byte, dns.MaxMsgSize)
	for {
		n, err := w.read(w.upstream, buf, 0)
		if err != nil {
			return ended("read from dns server", err)
		}
		w.answered.Store(true)
		w.mu.Lock()
		w.hear(buf[:n]) // before the client has it: the first packet of the flow must find it
		err = w.deliver(buf[:n])
		w.mu.Unlock()
		if err != nil {
			w.s.counters.watchDropped.Add(1)
			w.s.debug("watch dns datagrams", err)
		}
	}
}

// ended is why a datagram flow is over. The end of one side is the end of both, and no failure.
func ended(what string, err error) error {
	if errors.Is(err, io.EOF) {
		return errFinished
	}
	return fmt.Errorf("%s: %w", what, err)
}
