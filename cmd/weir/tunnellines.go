package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/term"

	"github.com/weir-dev/weir/flow/event"
	"github.com/weir-dev/weir/tunnel/client"
)

// maxLines bounds the lines that wait for a slow terminal; what is beyond is counted, and said when there is room again.
const maxLines = 1024

// eventLines is the sink for a terminal that shows no pictures: one line for each event that is worth one.
type eventLines struct {
	queue  chan string
	missed atomic.Uint64
	done   chan struct{}
	once   sync.Once
	mu     sync.RWMutex
	closed bool
}

func newEventLines(w io.Writer) *eventLines {
	l := &eventLines{queue: make(chan string, maxLines), done: make(chan struct{})}
	go l.write(w)
	return l
}

// Emit implements event.Sink.
func (l *eventLines) Emit(e *event.Event) {
	if text := told(e); text != "" {
		l.say(text)
	}
}

func (l *eventLines) say(text string) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if l.closed {
		return
	}
	select {
	case l.queue <- text:
	default:
		l.missed.Add(1)
	}
}

func (l *eventLines) write(w io.Writer) {
	defer close(l.done)
	for text := range l.queue {
		if n := l.missed.Swap(0); n > 0 {
			fmt.Fprintf(w, "%d lines are missing here\n", n)
		}
		fmt.Fprintln(w, text)
	}
}

// close writes what is queued, for a second at most.
func (l *eventLines) close() {
	l.once.Do(func() {
		l.mu.Lock()
		l.closed = true
		close(l.queue)
		l.mu.Unlock()
	})
	select {
	case <-l.done:
	case <-time.After(time.Second):
	}
}

// lineAsker asks by lines on a terminal, where there is no picture.
type lineAsker struct {
	out     io.Writer
	answers chan string
}

// canAsk reports whether somebody sits there who could be asked.
func canAsk() bool {
	return term.IsTerminal(int(os.Stdin.Fd())) && term.IsTerminal(int(os.Stderr.Fd()))
}

func newLineAsker(in io.Reader, out io.Writer) *lineAsker {
	a := &lineAsker{out: out, answers: make(chan string)}
	go a.read(in)
	return a
}

// read passes on what is typed, a line at a time, for as long as there is input. Nobody waits for it at the end.
func (a *lineAsker) read(in io.Reader) {
	s := bufio.NewScanner(in)
	for s.Scan() {
		select {
		case a.answers <- s.Text():
		case <-time.After(deafFor): // typed while nothing was asked
		}
	}
}

// ask puts one question; the handler puts one at a time.
func (a *lineAsker) ask(ctx context.Context, p client.Prompt) (client.Answer, error) {
	text := promptLines(p)
	fmt.Fprintf(a.out, "%s\n[o/r/a/N] ", strings.Join(text, "\n"))
	asked := time.Now()
	for {
		select {
		case line := <-a.answers:
			if time.Since(asked) < deafFor {
				continue
			}
			line = strings.TrimSpace(line)
			if line == "" {
				return client.Refuse, nil
			}
			if answer, ok := answerOf(key(line[0])); ok && len(line) == 1 {
				return answer, nil
			}
			fmt.Fprint(a.out, "one of o, r, a, n: ")
		case <-ctx.Done():
			fmt.Fprintln(a.out, "\nno answer: no")
			return client.Refuse, fmt.Errorf("ask: %w", ctx.Err())
		}
	}
}
