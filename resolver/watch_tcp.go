package resolver

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"github.com/weir-dev/weir/internal/stub"
)

// streamChunk is how much of a stream is read at one time.
const streamChunk = 16 << 10

// minQuestion is the length of the shortest question: a header and the root.
const minQuestion = headerLen + 1 + 4

// upTCP forwards whole questions. What is held never exceeds one message and one chunk.
func (w *watch) upTCP() error {
	var held []byte
	buf := make([]byte, streamChunk)
	for {
		n, err := w.read(w.client, w.holdFor(len(held)), func() (int, error) { return w.client.Read(buf) })
		held = append(held, buf[:n]...)
		var rest []byte
		var judged error
		if rest, judged = w.questions(held); judged != nil {
			return judged
		}
		held = append(held[:0], rest...)
		switch {
		case err == nil:
			continue
		case w.holdOver(err, len(held)):
			if err = w.notDNS(); err == nil {
				err = w.openUp(held)
			}
			held = held[:0]
		case errors.Is(err, io.EOF):
			return w.finishUp(held)
		default:
			err = fmt.Errorf("read from dns client: %w", err)
		}
		if err != nil {
			return err
		}
	}
}

// questions judges and forwards what is whole in b, and returns what is not.
func (w *watch) questions(b []byte) (rest []byte, err error) {
	for len(b) > 0 {
		if w.isRaw() {
			return nil, w.send(b)
		}
		if !mayBeQuestion(b) {
			if err := w.notDNS(); err != nil {
				return nil, err
			}
			return nil, w.openUp(b)
		}
		if len(b) < 2 {
			return b, nil
		}
		end := 2 + int(binary.BigEndian.Uint16(b))
		if len(b) < end {
			return b, nil
		}
		answer, err := w.judge(b[2:end])
		if err != nil {
			return nil, err
		}
		if answer == nil {
			err = w.send(b[:end])
		} else {
			err = w.answerHere(answer)
		}
		if err != nil {
			return nil, err
		}
		b = b[end:]
	}
	return nil, nil
}

// mayBeQuestion judges the beginning of a message as soon as it can be: another protocol on the port would otherwise wait
// for a length that its first two octets never meant.
func mayBeQuestion(b []byte) bool {
	if len(b) >= 2 && binary.BigEndian.Uint16(b) < minQuestion {
		return false
	}
	return len(b) < 2+headerLen || plausible(b[2:])
}

func (w *watch) answerHere(answer []byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, err := w.client.Write(stub.Frame(answer)); err != nil {
		return fmt.Errorf("write to dns client: %w", err)
	}
	return nil
}

// openUp gives up on messages, which only audit does: all bytes pass from here on, in both directions.
func (w *watch) openUp(b []byte) error {
	w.mu.Lock()
	err := w.openDown()
	w.mu.Unlock()
	if err != nil || len(b) == 0 {
		return err
	}
	return w.send(b)
}

// openDown lets the server's bytes pass as they come. The caller holds mu.
func (w *watch) openDown() error {
	w.raw = true
	return w.flushDown()
}

// flushDown delivers what is held, whole or not. The caller holds mu.
func (w *watch) flushDown() error {
	held := w.held
	if w.held = nil; len(held) == 0 {
		return nil
	}
	return w.deliver(held)
}

func (w *watch) isRaw() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.raw
}

// finishUp ends the client's half: a question that was not finished is sent in audit only.
func (w *watch) finishUp(held []byte) error {
	if len(held) > 0 {
		if err := w.notDNS(); err != nil {
			return err
		}
		if err := w.send(held); err != nil {
			return err
		}
	}
	return closeWrite(w.upstream)
}

// downTCP delivers whole answers, so that an answer made here never falls into the middle of one.
func (w *watch) downTCP() error {
	buf := make([]byte, streamChunk)
	for {
		w.mu.Lock()
		hold := w.holdFor(len(w.held))
		w.mu.Unlock()
		n, err := w.read(w.upstream, hold, func() (int, error) { return w.upstream.Read(buf) })
		w.mu.Lock()
		delivered := w.answers(buf[:n])
		over := w.holdOver(err, 1)
		switch {
		case delivered != nil:
		case over && len(w.held) > 0:
			delivered = w.openDown()
		case errors.Is(err, io.EOF):
			delivered = w.flushDown()
		}
		w.mu.Unlock()
		switch {
		case delivered != nil:
			return delivered
		case err == nil, over:
		case errors.Is(err, io.EOF):
			return closeWrite(w.client)
		default:
			return fmt.Errorf("read from dns server: %w", err)
		}
	}
}

// answers delivers what is whole of the server's bytes and holds the rest. The caller holds mu.
func (w *watch) answers(b []byte) error {
	w.held = append(w.held, b...)
	for len(w.held) > 0 {
		if w.raw || !w.s.Enforce && len(w.held) > 4 && w.held[4]&0x80 == 0 {
			return w.openDown()
		}
		if len(w.held) < 2 {
			return nil
		}
		end := 2 + int(binary.BigEndian.Uint16(w.held))
		if len(w.held) < end {
			return nil
		}
		w.hear(w.held[2:end])
		if err := w.deliver(w.held[:end]); err != nil {
			return err
		}
		w.held = append(w.held[:0], w.held[end:]...)
	}
	return nil
}

// holdFor is how long the beginning of a message may wait for its end: in audit, where nothing may hang that would not
// hang without weir.
func (w *watch) holdFor(held int) time.Duration {
	if !w.s.Enforce && held > 0 {
		return watchHold
	}
	return 0
}

// holdOver reports whether err says that the wait of holdFor is over.
func (w *watch) holdOver(err error, held int) bool {
	return !w.s.Enforce && held > 0 && w.ctx.Err() == nil && errors.Is(err, os.ErrDeadlineExceeded)
}

// closeWrite ends one direction; where the connection cannot, that is the end of both.
func closeWrite(c net.Conn) error {
	half, ok := c.(interface{ CloseWrite() error })
	if !ok {
		return errFinished
	}
	if err := half.CloseWrite(); err != nil {
		return fmt.Errorf("half-close dns flow: %w", err)
	}
	return nil
}
