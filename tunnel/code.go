package tunnel

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
)

// Code says how a flow, or a whole session, came to its end. It stands in a STATUS, in RESET_STREAM and STOP_SENDING (RFC 9000
// section 19.4 and 19.5) and in CONNECTION_CLOSE. A receiver takes a code that it does not know for [Internal].
type Code uint64

// The codes.
const (
	OK              Code = iota
	Reset                // the connection was reset by its far end
	Refused              // a RST to the SYN, or ICMP port unreachable
	HostUnreachable      // ICMP host unreachable
	NetUnreachable       // no route from the user's machine
	TimedOut             // no answer
	Denied               // the user's list does not allow it
	Limit                // too many at one time, or too fast
	Draining             // the other side is about to end, and takes no new flows
	NoClient             // nobody is connected whom the flow could go to
	Lost                 // the tunnel broke while the flow was open
	Revoked              // the client's credentials are not valid any more
	Superseded           // the same client has connected again
	Version              // the ends do not speak the same version
	Malformed            // the other side does not keep to the format
	NameFailed           // the user's machine has no answer to a DNS question
	Internal             // anything else
	codes
)

var codeNames = [codes]string{
	OK: "ok", Reset: "reset", Refused: "refused", HostUnreachable: "host unreachable", NetUnreachable: "network unreachable",
	TimedOut: "timed out", Denied: "denied by the client", Limit: "limit reached", Draining: "draining", NoClient: "no tunnel client is connected",
	Lost: "tunnel lost", Revoked: "revoked", Superseded: "superseded", Version: "no common version", Malformed: "malformed",
	NameFailed: "no answer from the client's resolver", Internal: "internal error",
}

// String returns the code in words.
func (c Code) String() string {
	if c >= codes {
		return codeNames[Internal]
	}
	return codeNames[c]
}

// Error is how a flow or a session failed. Text is for people, may be empty, and may come from the other side: hostile text of at
// most [MaxText] octets.
type Error struct {
	Code Code
	Text string
}

// MaxText bounds the text of a STATUS in octets.
const MaxText = 256

// Errorf returns an *Error with a formatted text.
func Errorf(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Text: fmt.Sprintf(format, args...)}
}

func (e *Error) Error() string {
	if e.Text == "" {
		return "tunnel: " + e.Code.String()
	}
	return "tunnel: " + e.Code.String() + ": " + e.Text
}

// Unwrap returns the system's error for the code, where there is one: whoever knows how to refuse a flow on the direct route
// knows it here.
func (e *Error) Unwrap() error {
	switch e.Code {
	case Reset, Lost:
		return syscall.ECONNRESET
	case Refused:
		return syscall.ECONNREFUSED
	case HostUnreachable:
		return syscall.EHOSTUNREACH
	case NetUnreachable:
		return syscall.ENETUNREACH
	case TimedOut:
		return os.ErrDeadlineExceeded
	case Denied, Limit, NoClient, Draining, Revoked, Superseded:
		return syscall.EACCES
	}
	return nil
}

// Lost reports whether the tunnel itself has ended, and not what is beyond it.
func (e *Error) Lost() bool {
	switch e.Code {
	case Lost, Draining, Revoked, Superseded:
		return true
	}
	return false
}

// CodeOf returns the code that tells the other side about err: OK for nil, Internal for what it does not know.
func CodeOf(err error) Code {
	var e *Error
	switch {
	case err == nil:
		return OK
	case errors.As(err, &e):
		return e.Code
	case errors.Is(err, syscall.ECONNREFUSED):
		return Refused
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE), errors.Is(err, syscall.ECONNABORTED):
		return Reset
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.EHOSTDOWN):
		return HostUnreachable
	case errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EADDRNOTAVAIL), errors.Is(err, syscall.EAFNOSUPPORT), errors.Is(err, syscall.ENETDOWN):
		return NetUnreachable
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, syscall.ETIMEDOUT):
		return TimedOut
	}
	return Internal
}
