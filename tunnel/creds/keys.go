package creds

import (
	"crypto/rand"
	"errors"
	"slices"
	"time"
)

// keys is the file of what must stay secret, and the same over restarts.
type keys struct {
	Version     int          `json:"version"`
	Authorities []*authority `json:"authorities"` // the first one signs
	Reset       []byte       `json:"stateless_reset_key"`
	Token       []byte       `json:"token_generator_key"`
}

func (k *keys) version() int { return k.Version }

// quicKey is the length of the keys that QUIC wants, in octets.
const quicKey = 32

func newKeys(now time.Time) (*keys, error) {
	a, err := newAuthority(1, now)
	if err != nil {
		return nil, err
	}
	k := &keys{Version: fileVersion, Authorities: []*authority{a}, Reset: make([]byte, quicKey), Token: make([]byte, quicKey)}
	rand.Read(k.Reset)
	rand.Read(k.Token)
	return k, nil
}

// parse checks what came from the file.
func (k *keys) parse() error {
	if len(k.Authorities) == 0 || len(k.Reset) != quicKey || len(k.Token) != quicKey {
		return errors.New("damaged")
	}
	for _, a := range k.Authorities {
		if a == nil {
			return errors.New("damaged")
		}
		if err := a.parse(); err != nil {
			return err
		}
	}
	return nil
}

// signer is the authority that signs.
func (k *keys) signer() *authority { return k.Authorities[0] }

// live returns the authority of that number if what it has signed still counts.
func (k *keys) live(id int, now time.Time) *authority {
	for _, a := range k.Authorities {
		if a.ID == id && a.liveAt(now) {
			return a
		}
	}
	return nil
}

// bundle returns the certificates that a client is to take for the edge's, the signer's first, in DER one after the other.
func (k *keys) bundle(now time.Time) []byte {
	var out []byte
	for _, a := range k.Authorities {
		if a.liveAt(now) {
			out = append(out, a.Cert...)
		}
	}
	return out
}

// pins are those of the authorities that count, the signer's first.
func (k *keys) pins(now time.Time) (pins []Pin) {
	for _, a := range k.Authorities {
		if a.liveAt(now) {
			pins = append(pins, PinOf(a.cert))
		}
	}
	return pins
}

// rotate puts a new authority before the others. With drop, these end now, otherwise when all they have signed has expired.
func (k *keys) rotate(now time.Time, drop bool) error {
	a, err := newAuthority(k.signer().ID+1, now)
	if err != nil {
		return err
	}
	k.Authorities = slices.DeleteFunc(k.Authorities, func(a *authority) bool { return drop || !a.liveAt(now) })
	for _, old := range k.Authorities {
		if old.Retires.IsZero() {
			old.Retires = now.Add(overlap)
		}
	}
	k.Authorities = slices.Insert(k.Authorities, 0, a)
	return nil
}
