package creds

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
)

// TokenPrefix is what each enrolment token begins with: by it a token is known where none belongs, in argv for instance.
const TokenPrefix = "weir_et1."

const (
	tokenIDLen  = 9 // octets: enough that two of the few thousand that live at one time are never the same
	secretLen   = 32
	maxTokenLen = 512 // octets of text; what is longer is something else
)

// Token is a one-time enrolment token. It prints as its id: only [Token.Text] has the secret.
type Token struct {
	ID     string
	Pin    Pin // of the authority that the edge must have
	Also   Pin // of the one before it, while a rotation lasts; zero otherwise
	secret [secretLen]byte
}

// newToken makes a token out of the system's random numbers. There is at least one pin.
func newToken(pins ...Pin) Token {
	t := Token{Pin: pins[0]}
	if len(pins) > 1 {
		t.Also = pins[1]
	}
	id := make([]byte, tokenIDLen)
	rand.Read(id)
	rand.Read(t.secret[:])
	t.ID = base64.RawURLEncoding.EncodeToString(id)
	return t
}

// errToken says no more than it must: the text may be a token with a typing error in it.
var errToken = errors.New("not an enrolment token: want " + TokenPrefix + "ID.SECRET.PIN")

// ParseToken reads the text of a token. White space around it does not matter, nor do further fields, which are for later
// versions. The error never holds any of it.
func ParseToken(text string) (Token, error) {
	text = strings.TrimSpace(text)
	rest, ok := strings.CutPrefix(text, TokenPrefix)
	if !ok || len(text) > maxTokenLen {
		return Token{}, errToken
	}
	fields := strings.Split(rest, ".")
	if len(fields) < 3 {
		return Token{}, fmt.Errorf("%w; this one is cut off", errToken)
	}
	var t Token
	var id [tokenIDLen]byte
	if !decodeField(id[:], fields[0]) || !decodeField(t.secret[:], fields[1]) || !decodeField(t.Pin[:], fields[2]) {
		return Token{}, fmt.Errorf("%w; this one is damaged", errToken)
	}
	t.ID = fields[0]
	if len(fields) > 3 && !decodeField(t.Also[:], fields[3]) {
		t.Also = Pin{} // not a pin: of a later version
	}
	return t, nil
}

// pins are those of the authorities that the edge may have.
func (t Token) pins() []Pin {
	if t.Also == (Pin{}) {
		return []Pin{t.Pin}
	}
	return []Pin{t.Pin, t.Also}
}

// decodeField fills b from base64url. One spelling only: what is left over of the last octet must be 0.
func decodeField(b []byte, text string) bool {
	raw, err := base64.RawURLEncoding.Strict().DecodeString(text)
	return err == nil && copy(b, raw) == len(b) && len(raw) == len(b) && !strings.ContainsAny(text, "\r\n")
}

// Text returns the whole token, secret included, in one line without its end.
func (t Token) Text() string {
	text := TokenPrefix + t.ID + "." + base64.RawURLEncoding.EncodeToString(t.secret[:])
	for _, p := range t.pins() {
		text += "." + p.String()
	}
	return text
}

// String returns the token without its secret.
func (t Token) String() string { return TokenPrefix + t.ID + ".(secret)" }

// Format has every verb print the token without its secret.
func (t Token) Format(f fmt.State, _ rune) { fmt.Fprint(f, t.String()) }

// MarshalJSON leaves the secret out.
func (t Token) MarshalJSON() ([]byte, error) { return json.Marshal(t.String()) }

// LogValue leaves the secret out.
func (t Token) LogValue() slog.Value { return slog.StringValue(t.String()) }

// hash is what the store keeps of the secret. The secret is random and long, so that a plain hash is as good as a slow one.
func (t Token) hash() []byte {
	h := sha256.Sum256(t.secret[:])
	return h[:]
}
