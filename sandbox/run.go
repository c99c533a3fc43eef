//go:build linux

package sandbox

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

// ErrClosed is what Release, Signal and Wait return when Close came first.
var ErrClosed = errors.New("sandbox closed")

// ErrLost is what Wait returns when the sandbox's init was killed by someone else: how CMD ended is not known.
var ErrLost = errors.New("sandbox lost: its init was killed")

// Release executes CMD. It returns when CMD runs, or with an *ExecError or *SetupError when it cannot. Once only.
func (s *Sandbox) Release() error {
	s.mu.Lock()
	again := s.released
	s.released = true
	s.mu.Unlock()
	if again {
		return errors.New("release: sandbox was released before")
	}
	streams := take(s, &s.streams)
	err := s.ctl.send(message{Op: opGo}, streams...)
	closeAll(streams)
	if err != nil {
		return s.gone(err)
	}
	err, ok := <-s.started
	if !ok {
		return s.gone(ErrLost)
	}
	return err
}

// listen reads what init has to say until it is gone.
func (s *Sandbox) listen() {
	defer close(s.heard)
	defer close(s.started)
	for {
		m, err := s.ctl.hear()
		if err != nil {
			return
		}
		switch m.Op {
		case opStarted:
			s.answer(nil)
		case opFailed:
			if m.Failure != nil { // with profile engine, root inside may have said it
				s.answer(m.Failure.err())
			}
		case opExit:
			s.mu.Lock()
			s.exit = &ExitStatus{Code: m.Code, Signal: syscall.Signal(m.Signal)}
			s.mu.Unlock()
		}
	}
}

// answer hands Release its result; a second one has nobody to go to.
func (s *Sandbox) answer(err error) {
	select {
	case s.started <- err:
	default:
	}
}

// Signal forwards a signal to CMD. When CMD shares the caller's terminal, the signals that the terminal itself sends to
// the whole foreground group (SIGINT, SIGQUIT, SIGTSTP, SIGWINCH) have reached CMD already and are not sent again.
func (s *Sandbox) Signal(sig os.Signal) error {
	n, ok := sig.(syscall.Signal)
	if !ok {
		return fmt.Errorf("signal %v: not a signal number", sig)
	}
	if s.terminal != nil {
		switch n {
		case syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTSTP, syscall.SIGWINCH:
			return nil
		}
	}
	if err := s.ctl.send(message{Op: opSignal, Signal: int(n)}); err != nil {
		return s.gone(err)
	}
	return nil
}

// Wait blocks until CMD has ended and with it everything in the sandbox. It may be called more than once.
func (s *Sandbox) Wait() (ExitStatus, error) {
	<-s.dead
	<-s.heard // every message has been read
	s.outputs.Wait()
	s.mu.Lock()
	exit := s.exit
	s.mu.Unlock()
	if exit == nil {
		return ExitStatus{}, s.gone(ErrLost)
	}
	return *exit, nil
}

// gone names Close where Close is the reason for err.
func (s *Sandbox) gone(err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return ErrClosed
	}
	return err
}
