package creds

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/weir-dev/weir/tunnel"
)

// The bounds of a store.
const (
	MaxClients = 10000 // names, in all spaces
	MaxTokens  = 1000  // that could be used now

	// maxIssued bounds the certificates of one client that count at one time; a renewal takes the place of the oldest.
	maxIssued = 4

	// remembered is how long a token that was used or has expired is kept, to tell whoever brings it what became of it.
	remembered = 24 * time.Hour

	// forgotten is how long a client is listed after its last certificate has expired, once there is no room for another.
	forgotten = 30 * 24 * time.Hour
)

// Record is what the registry knows of one client.
type Record struct {
	Space   string    `json:"space"`
	Client  string    `json:"client"`
	Created time.Time `json:"created"` // of the first enrolment
	Renewed time.Time `json:"renewed"` // when the newest certificate was made
	Expires time.Time `json:"expires"` // when the last one ends
	Revoked time.Time `json:"revoked,omitzero"`

	// Enrolments counts the tokens that were used for this name.
	Enrolments int `json:"enrolments"`

	// Key is the SHA-256 of the client's public key.
	Key []byte `json:"key"`

	// Issued are the certificates that count, the newest last.
	Issued []Issued `json:"issued"`
}

// Issued is one certificate.
type Issued struct {
	Serial    string    `json:"serial"`    // hex
	Authority int       `json:"authority"` // which of ours signed it
	Expires   time.Time `json:"expires"`
}

// Identity is whose record it is.
func (r *Record) Identity() tunnel.Identity {
	return tunnel.Identity{Space: r.Space, Client: r.Client}
}

// tokenRecord is what is kept of a token.
type tokenRecord struct {
	ID      string    `json:"id"`
	Hash    []byte    `json:"hash"` // SHA-256 of the secret
	Space   string    `json:"space"`
	Client  string    `json:"client,omitempty"` // the one name that it is for; empty: any new one
	Created time.Time `json:"created"`
	Expires time.Time `json:"expires"`
	Used    time.Time `json:"used,omitzero"`
}

func (t *tokenRecord) usable(now time.Time) bool { return t.Used.IsZero() && now.Before(t.Expires) }

// registry is the file of clients and tokens.
type registry struct {
	Version int            `json:"version"`
	Clients []*Record      `json:"clients"`
	Tokens  []*tokenRecord `json:"tokens"`

	byName map[tunnel.Identity]*Record
}

func (r *registry) version() int { return r.Version }

// index makes what is looked up by name.
func (r *registry) index() error {
	r.byName = make(map[tunnel.Identity]*Record, len(r.Clients))
	for _, c := range r.Clients {
		if c == nil || errors.Join(CheckName(c.Space), CheckName(c.Client)) != nil || r.byName[c.Identity()] != nil {
			return errors.New("damaged")
		}
		r.byName[c.Identity()] = c
	}
	if slices.Contains(r.Tokens, nil) {
		return errors.New("damaged")
	}
	return nil
}

// prune forgets tokens and certificates that are of no use any more.
func (r *registry) prune(now time.Time) {
	r.Tokens = slices.DeleteFunc(r.Tokens, func(t *tokenRecord) bool { return now.Sub(t.Expires) > remembered })
	for _, c := range r.Clients {
		c.Issued = slices.DeleteFunc(c.Issued, func(i Issued) bool { return !now.Before(i.Expires) })
	}
}

// void ends the tokens of these that were not used, and says how many there were.
func (r *registry) void(these func(*tokenRecord) bool) int {
	before := len(r.Tokens)
	r.Tokens = slices.DeleteFunc(r.Tokens, func(t *tokenRecord) bool { return t.Used.IsZero() && these(t) })
	return before - len(r.Tokens)
}

// room makes room for one more client, or says that there is none.
func (r *registry) room(now time.Time) error {
	if len(r.Clients) < MaxClients {
		return nil
	}
	r.Clients = slices.DeleteFunc(r.Clients, func(c *Record) bool { return now.Sub(c.Expires) > forgotten })
	if len(r.Clients) < MaxClients {
		return r.index()
	}
	return fmt.Errorf("registry: %d clients, the most that there can be", MaxClients)
}

func (r *registry) add(c *Record) {
	r.Clients = append(r.Clients, c)
	slices.SortFunc(r.Clients, func(a, b *Record) int {
		return cmp.Or(cmp.Compare(a.Space, b.Space), cmp.Compare(a.Client, b.Client))
	})
	r.byName[c.Identity()] = c
}

// issue notes a certificate.
func (c *Record) issue(i Issued, now time.Time) {
	c.Issued = append(c.Issued, i)
	c.Issued = c.Issued[max(0, len(c.Issued)-maxIssued):]
	c.Renewed, c.Expires = now, i.Expires
}

// live reports whether some certificate of the client counts.
func (c *Record) live(k *keys, now time.Time) bool {
	return c.Revoked.IsZero() && slices.ContainsFunc(c.Issued, func(i Issued) bool { return i.live(k, now) })
}

func (i Issued) live(k *keys, now time.Time) bool {
	return now.Before(i.Expires) && k.live(i.Authority, now) != nil
}
