package creds

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	mathrand "math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/weir-dev/weir/tunnel"
)

// clientFile has the client's key, its certificate and the authorities that it takes for the edge's, in PEM. It is one file
// so that they are replaced as one.
const clientFile = "client.pem"

// maxAuthorities bounds what an edge can have a client trust.
const maxAuthorities = 4

// ClientConfig says where a client's credentials are.
type ClientConfig struct {
	// Dir is a directory for one edge and one client, of mode 0700. [Enroll] makes it.
	Dir string

	// Clock is for tests; nil is time.Now.
	Clock func() time.Time
}

// Client is who a client is, and whom it takes for the edge. All methods may be called from many goroutines.
type Client struct {
	path  string
	clock func() time.Time

	mu       sync.Mutex
	now      credentials
	sessions tls.ClientSessionCache // of the certificate that counts now
}

// credentials are replaced as a whole.
type credentials struct {
	key         *ecdsa.PrivateKey
	leaf        *x509.Certificate
	authorities []*x509.Certificate
	identity    tunnel.Identity
	renewAt     time.Time
}

// The reasons for which there is nothing to connect with.
var (
	ErrNotEnrolled = errors.New("not enrolled")
	ErrExpired     = errors.New("the certificate has expired: this machine was away for longer than it lives")
)

// LoadClient reads the credentials. It fails with [ErrNotEnrolled] where there are none, and with [ErrExpired] where there
// were some: both need a token.
func LoadClient(c ClientConfig) (*Client, error) {
	client := newClient(c)
	b, _, err := readPrivate(client.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("load credentials: %s: %w", c.Dir, ErrNotEnrolled)
	}
	if err != nil {
		return nil, fmt.Errorf("load credentials: %w", err)
	}
	cr, err := parseCredentials(b)
	if err != nil {
		return nil, fmt.Errorf("load credentials: %s: %w", client.path, err)
	}
	client.take(cr)
	if !client.clock().Before(cr.leaf.NotAfter) {
		return nil, fmt.Errorf("load credentials: %w", ErrExpired)
	}
	return client, nil
}

func newClient(c ClientConfig) *Client {
	if c.Clock == nil {
		c.Clock = time.Now
	}
	return &Client{path: filepath.Join(c.Dir, clientFile), clock: c.Clock}
}

// take makes these the credentials that count. Sessions of the ones before are forgotten: they would bring the old
// certificate along.
func (c *Client) take(cr credentials) {
	life := cr.leaf.NotAfter.Sub(cr.leaf.NotBefore) - backdate
	jitter := time.Duration((mathrand.Float64() - 0.5) * renewJitter * float64(life))
	cr.renewAt = cr.leaf.NotBefore.Add(backdate + life/2 + jitter)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now, c.sessions = cr, tls.NewLRUClientSessionCache(sessionsKept)
}

const (
	renewJitter  = 0.2 // of the lifetime, around its half: clients that enrolled together do not come together
	sessionsKept = 4
)

func (c *Client) current() credentials {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

// Identity is who the client is to the edge.
func (c *Client) Identity() tunnel.Identity { return c.current().identity }

// Expires is when the certificate ends.
func (c *Client) Expires() time.Time { return c.current().leaf.NotAfter }

// RenewAt is when to send the next request: at half of the lifetime, give or take a tenth of it, by this machine's clock.
func (c *Client) RenewAt() time.Time { return c.current().renewAt }

// CSR makes a request for the next certificate, with the same key (PKCS #10 in DER).
func (c *Client) CSR() ([]byte, error) { return newRequest(c.current().key) }

// Install takes and keeps what an edge has given for a request: the certificate and its authorities. It must be for the
// same key and the same client.
func (c *Client) Install(chain []byte) error {
	was := c.current()
	cr, err := grantedTo(was.key, chain)
	if err != nil {
		return fmt.Errorf("install certificate: %w", err)
	}
	if cr.identity != was.identity {
		return fmt.Errorf("install certificate: it is for %s, not for %s", cr.identity, was.identity)
	}
	if err := c.save(cr); err != nil {
		return fmt.Errorf("install certificate: %w", err)
	}
	c.take(cr)
	return nil
}

func (c *Client) save(cr credentials) error {
	b, err := cr.encode()
	if err != nil {
		return err
	}
	return writePrivate(c.path, b)
}

// newKey makes a key and a request for it. The request names nobody: the edge decides who it is.
func newKey() (*ecdsa.PrivateKey, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	request, err := newRequest(key)
	return key, request, err
}

func newRequest(key *ecdsa.PrivateKey) ([]byte, error) {
	return x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
}

// grantedTo reads what an edge gave: a certificate for our key by the first of the authorities.
func grantedTo(key *ecdsa.PrivateKey, chain []byte) (credentials, error) {
	certs, err := x509.ParseCertificates(chain)
	if err != nil || len(certs) < 2 || len(certs) > 1+maxAuthorities {
		return credentials{}, errors.New("malformed chain")
	}
	cr := credentials{key: key, leaf: certs[0], authorities: certs[1:]}
	return cr, cr.check()
}

func (cr *credentials) check() (err error) {
	if !cr.key.PublicKey.Equal(cr.leaf.PublicKey) {
		return errors.New("certificate and key do not belong together")
	}
	for _, a := range cr.authorities {
		if !a.IsCA {
			return errors.New("an authority is none")
		}
	}
	if err := cr.leaf.CheckSignatureFrom(cr.authorities[0]); err != nil {
		return errors.New("the certificate is not by the authority that came along")
	}
	cr.identity, err = identityIn(cr.leaf)
	return err
}

func (cr *credentials) pins() []Pin {
	pins := make([]Pin, len(cr.authorities))
	for i, a := range cr.authorities {
		pins[i] = PinOf(a)
	}
	return pins
}

// The blocks of the file.
const (
	pemKey  = "PRIVATE KEY"
	pemCert = "CERTIFICATE"
)

func (cr *credentials) encode() ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(cr.key)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	err = pem.Encode(&b, &pem.Block{Type: pemKey, Bytes: der})
	for _, c := range append([]*x509.Certificate{cr.leaf}, cr.authorities...) {
		err = errors.Join(err, pem.Encode(&b, &pem.Block{Type: pemCert, Bytes: c.Raw}))
	}
	return b.Bytes(), err
}

func parseCredentials(b []byte) (credentials, error) {
	var key *ecdsa.PrivateKey
	var chain []byte
	for block, rest := pem.Decode(b); block != nil; block, rest = pem.Decode(rest) {
		switch block.Type {
		case pemKey:
			k, _ := x509.ParsePKCS8PrivateKey(block.Bytes)
			key, _ = k.(*ecdsa.PrivateKey)
		case pemCert:
			chain = append(chain, block.Bytes...)
		}
	}
	if key == nil {
		return credentials{}, errors.New("no key in it")
	}
	return grantedTo(key, chain)
}

// Forget removes the credentials from the disk. There may be none.
func Forget(c ClientConfig) error {
	if err := os.Remove(newClient(c).path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("forget credentials: %w", err)
	}
	return nil
}
