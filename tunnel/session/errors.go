package session

import (
	"context"
	"errors"
	"io"
	"net"
	"os"

	"github.com/quic-go/quic-go"

	"github.com/weir-dev/weir/tunnel"
)

// ended says why a connection has ended.
func ended(err error) *tunnel.Error {
	var app *quic.ApplicationError
	var idle *quic.IdleTimeoutError
	var reset *quic.StatelessResetError
	var transport *quic.TransportError
	switch {
	case errors.As(err, &app):
		return &tunnel.Error{Code: tunnel.Code(app.ErrorCode), Text: cut(app.ErrorMessage)}
	case errors.As(err, &idle):
		return tunnel.Errorf(tunnel.Lost, "nothing came from the other side for too long")
	case errors.As(err, &reset):
		return tunnel.Errorf(tunnel.Lost, "the other side has started again")
	case errors.As(err, &transport):
		return tunnel.Errorf(tunnel.Lost, "%s", cut(transport.Error()))
	case err == nil:
		return tunnel.Errorf(tunnel.Lost, "")
	}
	return tunnel.Errorf(tunnel.Lost, "%s", cut(err.Error()))
}

// cut bounds a text that is not ours.
func cut(s string) string { return s[:min(len(s), tunnel.MaxText)] }

// flowError is an error of a stream in the words of package tunnel. io.EOF and errors of deadlines stay what they are.
func flowError(err error) error {
	var stream *quic.StreamError
	var already *tunnel.Error
	switch {
	case err == nil, err == io.EOF, errors.As(err, &already), errors.Is(err, os.ErrDeadlineExceeded):
		return err
	case errors.As(err, &stream):
		if !stream.Remote {
			return net.ErrClosed
		}
		return &tunnel.Error{Code: resetCode(stream)}
	case errors.Is(err, quic.ErrStreamClosed):
		return net.ErrClosed
	case errors.Is(err, io.ErrUnexpectedEOF):
		return tunnel.Errorf(tunnel.Malformed, "a stream ended early")
	}
	return tunnel.Errorf(tunnel.Lost, "%s", ended(err).Error())
}

// resetCode is the code of a stream that the other side has reset or does not read any more.
func resetCode(err *quic.StreamError) tunnel.Code {
	if err.ErrorCode == quic.StreamErrorCode(tunnel.OK) {
		return tunnel.Reset
	}
	return tunnel.Code(err.ErrorCode)
}

// openError is the error of something that ctx may have ended.
func openError(ctx context.Context, err error) error {
	switch ctx.Err() {
	case context.DeadlineExceeded:
		return tunnel.Errorf(tunnel.TimedOut, "no answer from the client")
	case context.Canceled:
		return tunnel.Errorf(tunnel.Reset, "cancelled")
	}
	if err = flowError(err); timedOut(err) {
		return tunnel.Errorf(tunnel.TimedOut, "no answer from the client")
	}
	return err
}

// greetError is the error of a greeting. What the other side closes the connection with is not the loss of a flow, but why there
// is no session.
func greetError(ctx context.Context, err error) error {
	var app *quic.ApplicationError
	if errors.As(err, &app) {
		return ended(app)
	}
	return openError(ctx, err)
}

// ending is a text for the other side with its code.
func ending(err error) (tunnel.Code, string) {
	var e *tunnel.Error
	if errors.As(err, &e) {
		return e.Code, cut(e.Text)
	}
	return tunnel.CodeOf(err), ""
}

// timedOut says whether err is that of a deadline, not what the other side says.
func timedOut(err error) bool {
	var e *tunnel.Error
	return errors.Is(err, os.ErrDeadlineExceeded) && !errors.As(err, &e)
}
