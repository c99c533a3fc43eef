package tunnel

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"testing"
)

// TestCodes: each code has words, and what a system error becomes on the wire is the same kind of error at the other end.
func TestCodes(t *testing.T) {
	for c := range codes {
		if codeNames[c] == "" {
			t.Errorf("code %d has no words", c)
		}
	}
	if got := Code(1 << 40).String(); got != "internal error" {
		t.Errorf("an unknown code reads %q", got)
	}
	for _, c := range []struct {
		err  error
		code Code
		back error
	}{
		{nil, OK, nil},
		{syscall.ECONNREFUSED, Refused, syscall.ECONNREFUSED},
		{fmt.Errorf("read: %w", syscall.ECONNRESET), Reset, syscall.ECONNRESET},
		{syscall.EPIPE, Reset, syscall.ECONNRESET},
		{syscall.EHOSTUNREACH, HostUnreachable, syscall.EHOSTUNREACH},
		{syscall.EAFNOSUPPORT, NetUnreachable, syscall.ENETUNREACH},
		{context.DeadlineExceeded, TimedOut, os.ErrDeadlineExceeded},
		{fmt.Errorf("judge: %w", Errorf(Denied, "rule 3")), Denied, syscall.EACCES},
		{errors.New("disk on fire"), Internal, nil},
	} {
		got := CodeOf(c.err)
		if got != c.code {
			t.Errorf("CodeOf(%v) = %v, want %v", c.err, got, c.code)
		}
		if c.back != nil && !errors.Is(&Error{Code: got}, c.back) {
			t.Errorf("%v is not %v at the other end", got, c.back)
		}
	}
}
