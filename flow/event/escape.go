package event

import (
	"unicode"
	"unicode/utf8"
)

const hexDigits = "0123456789abcdef"

// Escape returns s with everything that could steer a terminal or fool a reader made visible: control characters, DEL,
// C1, line and paragraph separators and format characters (bidirectional controls, zero-width characters) as \uNNNN,
// octets that are not UTF-8 as \xNN. What remains is printable and has no line break.
func Escape(s string) string {
	if clean(s) {
		return s
	}
	b := make([]byte, 0, len(s)+16)
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && n == 1:
			b = append(b, '\\', 'x', hexDigits[s[i]>>4], hexDigits[s[i]&15])
		case hidden(r):
			b = appendRuneEscape(b, r)
		default:
			b = append(b, s[i:i+n]...)
		}
		i += n
	}
	return string(b)
}

// clean reports whether s is printable as it is.
func clean(s string) bool {
	for i := 0; i < len(s); i++ {
		if c := s[i]; c < ' ' || c >= 0x7f {
			return cleanRunes(s[i:])
		}
	}
	return true
}

func cleanRunes(s string) bool {
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		if r == utf8.RuneError && n == 1 || hidden(r) {
			return false
		}
		i += n
	}
	return true
}

// hidden reports whether r must not appear raw at any exit: C0, DEL, C1, U+2028, U+2029 and the format characters (Cf),
// among which are all bidirectional controls of UAX #9.
func hidden(r rune) bool {
	switch {
	case r < 0x20 || r == 0x7f:
		return true
	case r < 0x80:
		return false
	case r < 0xa0 || r == 0x2028 || r == 0x2029:
		return true
	}
	return unicode.Is(unicode.Cf, r)
}

// appendRuneEscape appends r as \uNNNN, or as the surrogate pair that JSON (RFC 8259 section 7) uses beyond U+FFFF.
func appendRuneEscape(b []byte, r rune) []byte {
	if r > 0xffff {
		r -= 0x10000
		b = appendRuneEscape(b, 0xd800+r>>10)
		r = 0xdc00 + r&0x3ff
	}
	return append(b, '\\', 'u', hexDigits[r>>12&15], hexDigits[r>>8&15], hexDigits[r>>4&15], hexDigits[r&15])
}
