//go:build linux

package gauntlet

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// openTerminal makes a pseudo terminal: keyboard is what the user types on and sees, tty what programs have.
func openTerminal(s *Stage) (keyboard, tty *os.File, err error) {
	keyboard, err = os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, err
	}
	s.Defer(func() { keyboard.Close() })
	if err := unix.IoctlSetPointerInt(int(keyboard.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		return nil, nil, fmt.Errorf("unlock terminal: %w", err)
	}
	n, err := unix.IoctlGetInt(int(keyboard.Fd()), unix.TIOCGPTN)
	if err != nil {
		return nil, nil, fmt.Errorf("number terminal: %w", err)
	}
	tty, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, err
	}
	s.Defer(func() { tty.Close() })
	return keyboard, tty, nil
}

// withTerminal starts the sandbox on a terminal of its own, as a person would.
func withTerminal(s *Stage) error {
	_, tty, err := openTerminal(s)
	s.Terminal = tty
	return err
}

// typed is what the next program to read from the stage's terminal will get.
func (s *Stage) typed() []byte {
	b := make([]byte, 4096)
	fd := int(s.Terminal.Fd())
	unix.SetNonblock(fd, true)
	n, _ := unix.Read(fd, b)
	return b[:max(n, 0)]
}
