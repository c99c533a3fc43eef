package creds

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"time"

	"github.com/weir-dev/weir/tunnel"
)

const (
	// Lifetime is how long a client's certificate is good for.
	Lifetime = 24 * time.Hour

	// backdate is how much earlier than now a certificate begins: clocks differ.
	backdate = 5 * time.Minute

	// overlap is how long an authority stays after a rotation: all it has signed has expired by then.
	overlap = Lifetime + time.Hour

	authorityLifetime = 10 * 365 * 24 * time.Hour
)

// authority signs the certificates of both ends.
type authority struct {
	ID      int       `json:"id"`               // counts up
	Cert    []byte    `json:"certificate"`      // DER
	Key     []byte    `json:"key"`              // PKCS #8
	Retires time.Time `json:"retires,omitzero"` // when it is of no use any more; zero for the one that signs

	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(id int, now time.Time) (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make authority: %w", err)
	}
	template := &x509.Certificate{
		Subject:   pkix.Name{CommonName: fmt.Sprintf("weir edge authority %d", id)},
		NotBefore: now.Add(-backdate), NotAfter: now.Add(authorityLifetime),
		SerialNumber: newSerial(), KeyUsage: x509.KeyUsageCertSign,
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true,
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("make authority: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("make authority: %w", err)
	}
	a := &authority{ID: id, Cert: cert, Key: der}
	return a, a.parse()
}

// parse reads what came from the file.
func (a *authority) parse() error {
	cert, err := x509.ParseCertificate(a.Cert)
	if err != nil {
		return fmt.Errorf("authority %d: %w", a.ID, err)
	}
	key, err := x509.ParsePKCS8PrivateKey(a.Key)
	if err != nil {
		return fmt.Errorf("authority %d: its key cannot be read", a.ID) // the error of x509 could hold some of it
	}
	ec, ok := key.(*ecdsa.PrivateKey)
	if !ok || !ec.PublicKey.Equal(cert.PublicKey) || !cert.IsCA {
		return fmt.Errorf("authority %d: key and certificate do not belong together", a.ID)
	}
	a.cert, a.key = cert, ec
	return nil
}

// liveAt reports whether what the authority has signed counts.
func (a *authority) liveAt(now time.Time) bool { return a.Retires.IsZero() || now.Before(a.Retires) }

// signClient makes a client's certificate. Of the request nothing but the key is used.
func (a *authority) signClient(id tunnel.Identity, key crypto.PublicKey, now time.Time) (*x509.Certificate, error) {
	template := leafTemplate(now)
	template.URIs = append(template.URIs, identityURI(id))
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	return a.sign(template, key)
}

// serve makes a certificate for the edge, with a key that lives in memory only.
func (a *authority) serve(now time.Time) (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make server key: %w", err)
	}
	template := leafTemplate(now)
	template.DNSNames = []string{PinOf(a.cert).serverName()}
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	leaf, err := a.sign(template, key.Public())
	if err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: [][]byte{leaf.Raw, a.Cert}, PrivateKey: key, Leaf: leaf}, nil
}

func leafTemplate(now time.Time) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: newSerial(), NotBefore: now.Add(-backdate), NotAfter: now.Add(Lifetime),
		KeyUsage: x509.KeyUsageDigitalSignature, BasicConstraintsValid: true,
	}
}

func (a *authority) sign(template *x509.Certificate, key crypto.PublicKey) (*x509.Certificate, error) {
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key, a.key)
	if err != nil {
		return nil, fmt.Errorf("sign certificate: %w", err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("sign certificate: %w", err)
	}
	return leaf, nil
}

// newSerial returns 127 random bits, which RFC 5280 section 4.1.2.2 has room for.
func newSerial() *big.Int {
	b := make([]byte, 16)
	rand.Read(b)
	b[0] = b[0]&0x7f | 0x40
	return new(big.Int).SetBytes(b)
}

func serialOf(c *x509.Certificate) string { return hex.EncodeToString(c.SerialNumber.Bytes()) }

// maxRequest bounds a certificate request in octets of DER.
const maxRequest = 2048

// requestKey reads a certificate request (RFC 2986) for its key alone: whoever sent it has that key, which must be worth it.
func requestKey(der []byte) (crypto.PublicKey, error) {
	if len(der) > maxRequest {
		return nil, fmt.Errorf("certificate request: %d octets, more than %d", len(der), maxRequest)
	}
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, errors.New("certificate request: malformed")
	}
	switch key := csr.PublicKey.(type) {
	case *ecdsa.PublicKey:
		if key.Curve != elliptic.P256() && key.Curve != elliptic.P384() {
			return nil, errors.New("certificate request: want a key on P-256, P-384 or Ed25519")
		}
	case ed25519.PublicKey:
	default:
		return nil, errors.New("certificate request: want a key on P-256, P-384 or Ed25519")
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, errors.New("certificate request: not signed by its key")
	}
	return csr.PublicKey, nil
}

// keyPrint is the SHA-256 of a public key.
func keyPrint(key any) ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return nil, err
	}
	h := sha256.Sum256(der)
	return h[:], nil
}
