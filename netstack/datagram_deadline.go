package netstack

import (
	"errors"
	"time"
)

// SetDeadline implements net.Conn.
func (f *datagramFlow) SetDeadline(t time.Time) error {
	return errors.Join(f.SetReadDeadline(t), f.SetWriteDeadline(t))
}

// SetReadDeadline implements net.Conn.
func (f *datagramFlow) SetReadDeadline(t time.Time) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err != nil {
		return f.opError("set", f.err)
	}
	f.readUntil = t
	f.readExpired = false
	if f.readTimer != nil {
		f.readTimer.Stop()
	}
	if t.IsZero() {
		return nil
	}
	left := time.Until(t)
	switch {
	case left <= 0:
		f.readExpired = true
		f.readable.Broadcast()
	case f.readTimer == nil:
		f.readTimer = time.AfterFunc(left, f.expireRead)
	default:
		f.readTimer.Reset(left)
	}
	return nil
}

// expireRead is the read timer. The deadline may have moved while it was on its way.
func (f *datagramFlow) expireRead() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err != nil || f.readUntil.IsZero() {
		return
	}
	if left := time.Until(f.readUntil); left > 0 {
		f.readTimer.Reset(left)
		return
	}
	f.readExpired = true
	f.readable.Broadcast()
}

// SetWriteDeadline implements net.Conn. A Write never waits, so it only fails when t has passed before.
func (f *datagramFlow) SetWriteDeadline(t time.Time) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err != nil {
		return f.opError("set", f.err)
	}
	f.writeUntil = t
	return nil
}
