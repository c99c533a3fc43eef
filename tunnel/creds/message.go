package creds

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/quic-go/quic-go/quicvarint"
)

// One request and one answer go over the one stream of an enrolment, each a row of fields until the end of the stream:
// type, length, value, the first two as QUIC varints (RFC 9000 section 16). Fields of unknown types are passed over, each
// known one stands there at most once.
const (
	fieldVersion = 1 // varint; 1
	fieldToken   = 2 // request: the id of the token
	fieldSecret  = 3 // request
	fieldName    = 4 // request: the name that the client wishes for; answer: the one that it got
	fieldRequest = 5 // request: PKCS #10 in DER
	fieldRefusal = 6 // answer: varint, a Refusal; absent when it was granted
	fieldTime    = 7 // answer: varint, the edge's clock in seconds since 1970
	fieldChain   = 8 // answer: the certificate and the authorities, in DER one after the other

	enrolVersion = 1
	maxMessage   = 8192 // octets of a request or an answer
	maxFields    = 32
)

// Refusal says why an edge gave no certificate. It is an error.
type Refusal uint64

// The refusals. Those that tell about a token are for whoever has its secret; to all others there is no such token.
const (
	RefusedToken   Refusal = 1 + iota // no such token
	RefusedUsed                       // it was used already
	RefusedExpired                    // it has expired
	RefusedName                       // the name is not free
	RefusedRequest                    // the certificate request is not good
	RefusedBusy                       // too many attempts; later
	RefusedVersion                    // the edge speaks another version
	RefusedInternal
	refusals
)

func (r Refusal) Error() string {
	switch r {
	case RefusedToken:
		return "the edge knows no such token"
	case RefusedUsed:
		return "the token was used already"
	case RefusedExpired:
		return "the token has expired"
	case RefusedName:
		return "a client of that name has enrolled already"
	case RefusedRequest:
		return "the edge does not take this key"
	case RefusedBusy:
		return "too many attempts, try again later"
	case RefusedVersion:
		return "the edge speaks another version of the enrolment"
	}
	return "the edge could not make a certificate"
}

// enrolRequest is what a client sends.
type enrolRequest struct {
	token   string
	secret  [secretLen]byte
	name    string
	request []byte
}

// enrolAnswer is what it gets.
type enrolAnswer struct {
	refusal Refusal // 0: granted
	at      time.Time
	name    string
	chain   []byte
}

func (r *enrolRequest) encode() []byte {
	b := appendVarintField(nil, fieldVersion, enrolVersion)
	b = appendField(b, fieldToken, []byte(r.token))
	b = appendField(b, fieldSecret, r.secret[:])
	b = appendField(b, fieldName, []byte(r.name))
	return appendField(b, fieldRequest, r.request)
}

func (a *enrolAnswer) encode() []byte {
	b := appendVarintField(nil, fieldVersion, enrolVersion)
	if a.refusal != 0 {
		b = appendVarintField(b, fieldRefusal, uint64(a.refusal))
	}
	b = appendVarintField(b, fieldTime, uint64(max(0, a.at.Unix())))
	if a.refusal == 0 {
		b = appendField(b, fieldName, []byte(a.name))
		b = appendField(b, fieldChain, a.chain)
	}
	return b
}

func appendField(b []byte, kind uint64, value []byte) []byte {
	b = quicvarint.Append(b, kind)
	b = quicvarint.Append(b, uint64(len(value)))
	return append(b, value...)
}

func appendVarintField(b []byte, kind, value uint64) []byte {
	return appendField(b, kind, quicvarint.Append(nil, value))
}

// errMalformed is all there is to say to whoever does not keep to the format.
var errMalformed = errors.New("malformed enrolment message")

// errVersion is an enrolment message of another version.
var errVersion = errors.New("enrolment message of another version")

// fields splits a message. The values are parts of b.
func fields(b []byte) (map[uint64][]byte, error) {
	found := map[uint64][]byte{}
	for n := 0; len(b) > 0; n++ {
		kind, k, err := quicvarint.Parse(b)
		if err != nil || n == maxFields {
			return nil, errMalformed
		}
		size, l, err := quicvarint.Parse(b[k:])
		if err != nil || size > uint64(len(b)-k-l) {
			return nil, errMalformed
		}
		if _, twice := found[kind]; twice {
			return nil, errMalformed
		}
		b = b[k+l:]
		found[kind], b = b[:size:size], b[size:]
	}
	version, err := varint(found[fieldVersion])
	if err == nil && version != enrolVersion {
		err = errVersion
	}
	return found, err
}

func varint(b []byte) (uint64, error) {
	v, n, err := quicvarint.Parse(b)
	if err != nil || n != len(b) {
		return 0, errMalformed
	}
	return v, nil
}

func parseRequest(b []byte) (*enrolRequest, error) {
	f, err := fields(b)
	if err != nil {
		return nil, err
	}
	r := &enrolRequest{token: string(f[fieldToken]), name: string(f[fieldName]), request: bytes.Clone(f[fieldRequest])}
	if len(f[fieldSecret]) != secretLen || len(r.token) == 0 || len(r.token) > maxName || len(r.request) == 0 || len(r.request) > maxRequest {
		return nil, errMalformed
	}
	if r.name != "" && CheckName(r.name) != nil {
		return nil, errMalformed
	}
	copy(r.secret[:], f[fieldSecret])
	return r, nil
}

func parseAnswer(b []byte) (*enrolAnswer, error) {
	f, err := fields(b)
	if err != nil {
		return nil, err
	}
	a := &enrolAnswer{name: string(f[fieldName]), chain: slices.Clone(f[fieldChain])}
	at, err := varint(f[fieldTime])
	if err != nil || at > 1<<40 {
		return nil, errMalformed
	}
	a.at = time.Unix(int64(at), 0).UTC()
	if code, refused := f[fieldRefusal]; refused {
		v, err := varint(code)
		if err != nil || v == 0 {
			return nil, errMalformed
		}
		if a.refusal = Refusal(v); a.refusal >= refusals {
			a.refusal = RefusedInternal
		}
		return a, nil
	}
	if len(a.chain) == 0 || CheckName(a.name) != nil {
		return nil, errMalformed
	}
	return a, nil
}

// readMessage reads to the end of the stream.
func readMessage(r io.Reader) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxMessage+1))
	if err != nil {
		return nil, fmt.Errorf("read enrolment message: %w", err)
	}
	if len(b) > maxMessage {
		return nil, errMalformed
	}
	return b, nil
}
