package main

import (
	"fmt"
	"os"
	"strings"
	"sync"

	"golang.org/x/term"
)

// What a screen writes to the terminal: the alternate screen, so that what was there comes back; no cursor; and pictures that
// the terminal shows whole, where it knows how (synchronized output), without a blank in between.
const (
	screenEnter = "\x1b[?1049h\x1b[?25l\x1b[2J"
	screenLeave = "\x1b[0m\x1b[?2026l\x1b[?25h\x1b[?1049l"
	frameBegin  = "\x1b[?2026h\x1b[H"
	frameEnd    = "\x1b[J\x1b[?2026l"
)

// screen is a terminal that shows pictures and reads keys.
type screen struct {
	in, out *os.File
	before  *term.State
	restore func() // takes back what openScreen did beyond that; never nil
	last    string
	once    sync.Once
}

// canShow reports whether there is a terminal to show pictures on and to read keys from.
func canShow() bool {
	return term.IsTerminal(int(os.Stdin.Fd())) && term.IsTerminal(int(os.Stdout.Fd())) && os.Getenv("TERM") != "dumb"
}

// openScreen takes the terminal over. close gives it back.
func openScreen(in, out *os.File) (*screen, error) {
	watched := guardScreen(in, out)
	before, err := term.MakeRaw(int(in.Fd()))
	if err != nil {
		return nil, fmt.Errorf("set up terminal: %w", err)
	}
	restore, err := understandEscapes(out)
	if err != nil {
		_ = term.Restore(int(in.Fd()), before)
		return nil, fmt.Errorf("set up terminal: %w", err)
	}
	s := &screen{in: in, out: out, before: before, restore: func() { restore(); watched() }}
	_, err = out.WriteString(screenEnter)
	if err != nil {
		s.close()
		return nil, fmt.Errorf("set up terminal: %w", err)
	}
	return s, nil
}

// close gives the terminal back as it was. It may be called from any goroutine, and more than once.
func (s *screen) close() {
	s.once.Do(func() {
		_, _ = s.out.WriteString(screenLeave)
		_ = term.Restore(int(s.in.Fd()), s.before)
		s.restore()
	})
}

// size returns columns and lines, 80 and 24 when the terminal does not say.
func (s *screen) size() (width, height int) {
	width, height, err := term.GetSize(int(s.out.Fd()))
	if err != nil || width <= 0 || height <= 0 {
		return 80, 24
	}
	return width, height
}

// show paints a picture, if it is another one than before.
func (s *screen) show(lines []string) {
	f := frame(lines)
	if f == s.last {
		return
	}
	s.last = f
	_, _ = s.out.WriteString(f)
}

// frame is a picture as one write: each line over the old one, what is left of that wiped, and what was below.
func frame(lines []string) string {
	var b strings.Builder
	b.WriteString(frameBegin)
	for i, line := range lines {
		if i > 0 {
			b.WriteString("\r\n")
		}
		b.WriteString(line)
		b.WriteString("\x1b[K")
	}
	b.WriteString(frameEnd)
	return b.String()
}

// key is what a person pressed: a printable character as it is, or one of these.
type key rune

// Keys without a character.
const (
	keyUp key = iota + 1<<21
	keyDown
	keyPageUp
	keyPageDown
	keyHome
	keyEnd
	keyEscape
	keyInterrupt
	keyRedraw
)

// readKeys sends what is pressed until reading fails; then it closes keys.
func readKeys(in *os.File, keys chan<- key) {
	defer close(keys)
	b := make([]byte, 256)
	for {
		n, err := in.Read(b)
		if err != nil {
			return
		}
		for _, k := range parseKeys(b[:n]) {
			keys <- k
		}
	}
}

// named returns the key that an escape sequence stands for.
func named(sequence string) (k key, ok bool) {
	switch sequence {
	case "\x1b[A", "\x1bOA":
		return keyUp, true
	case "\x1b[B", "\x1bOB":
		return keyDown, true
	case "\x1b[5~":
		return keyPageUp, true
	case "\x1b[6~":
		return keyPageDown, true
	case "\x1b[H", "\x1bOH", "\x1b[1~":
		return keyHome, true
	case "\x1b[F", "\x1bOF", "\x1b[4~":
		return keyEnd, true
	}
	return 0, false
}

// parseKeys takes apart what one read returned. Sequences that it does not know are left out whole.
func parseKeys(b []byte) (keys []key) {
	for len(b) > 0 {
		n := 1
		switch c := b[0]; {
		case c == 0x1b:
			n = sequence(b)
			if k, known := named(string(b[:n])); known {
				keys = append(keys, k)
			} else if n == 1 {
				keys = append(keys, keyEscape)
			}
		case c == 3, c == 4: // ^C, ^D
			keys = append(keys, keyInterrupt)
		case c == 12: // ^L
			keys = append(keys, keyRedraw)
		case c == 14: // ^N
			keys = append(keys, keyDown)
		case c == 16: // ^P
			keys = append(keys, keyUp)
		case c >= ' ' && c < 0x7f:
			keys = append(keys, key(c))
		}
		b = b[n:]
	}
	return keys
}

// sequence returns the length of the escape sequence at the beginning of b (ECMA-48 section 5.4).
func sequence(b []byte) int {
	if len(b) < 2 || b[1] != '[' && b[1] != 'O' {
		return 1
	}
	for i := 2; i < len(b); i++ {
		if b[i] >= 0x40 && b[i] <= 0x7e {
			return i + 1
		}
	}
	return len(b)
}
