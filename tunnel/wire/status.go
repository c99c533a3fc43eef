package wire

import (
	"io"
	"net/netip"

	"github.com/weir-dev/weir/tunnel"
)

// TypeStatus is the type of the STATUS among what may stand before the bytes of a flow.
const TypeStatus = 0x10

// maxBefore bounds how much that a reader does not know may stand before a STATUS.
const maxBefore = 8

// Types of the fields in a STATUS.
const (
	statusCode     = 1
	statusText     = 2
	statusResolved = 3 // as the address of a header
	statusBound    = 4
)

// Status is the client's answer to a header.
type Status struct {
	Code tunnel.Code
	Text string // at most [tunnel.MaxText] octets

	// Resolved is the address that the client has connected to, Bound the one it did that from, where it says so.
	Resolved, Bound netip.AddrPort
}

// AppendStatus appends s. A text that is too long is cut.
func AppendStatus(b []byte, s Status) []byte {
	var f block
	f.integer(statusCode, uint64(s.Code))
	f.text(statusText, upTo(s.Text, tunnel.MaxText))
	if s.Resolved.IsValid() {
		f.octets(statusResolved, appendAddrPort(nil, s.Resolved))
	}
	if s.Bound.IsValid() {
		f.octets(statusBound, appendAddrPort(nil, s.Bound))
	}
	return appendFrame(b, TypeStatus, f)
}

// ReadStatus reads up to the end of a STATUS and no octet more.
func ReadStatus(r io.Reader) (Status, error) {
	for range maxBefore {
		typ, body, err := readFrame(r, MaxHeader)
		if err != nil {
			return Status{}, err
		}
		if typ == TypeStatus {
			return parseStatus(body)
		}
	}
	return Status{}, malformed("no status among %d messages", maxBefore)
}

func parseStatus(body []byte) (Status, error) {
	var s Status
	err := eachField(body, func(typ uint64, v value) (err error) {
		switch typ {
		case statusCode:
			err = v.integer((*uint64)(&s.Code), MaxVarint)
		case statusText:
			err = v.text(&s.Text, tunnel.MaxText)
		case statusResolved:
			s.Resolved, err = parseAddrPort(v.octets)
		case statusBound:
			s.Bound, err = parseAddrPort(v.octets)
		}
		return err
	})
	if err != nil {
		return Status{}, err
	}
	return s, nil
}

// Err is the error that the status tells of, nil for [tunnel.OK].
func (s Status) Err() error {
	if s.Code == tunnel.OK {
		return nil
	}
	return &tunnel.Error{Code: s.Code, Text: s.Text}
}
