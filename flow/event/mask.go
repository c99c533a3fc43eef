package event

import (
	"path/filepath"
	"strings"
)

// Masked stands where a secret was.
const Masked = "***"

// MaskArgs returns a command line with its secrets masked, or args itself when there is nothing to mask. Masked are: the
// userinfo of URLs and of data source names; the value after a flag, a variable, a parameter or a header whose name
// looks like token, key, secret, password, credential or authorization, wherever in an argument it stands; and words with
// the form of well-known tokens. It errs on the side of masking and is idempotent.
func MaskArgs(args []string) []string {
	var out []string
	shortPassword := takesShortPassword(args)
	for i := 0; i < len(args); i++ {
		masked := args[i]
		switch {
		case i > 0 && valueOf(args[i-1], masked, shortPassword):
			masked = Masked
		case i > 0 && (args[i-1] == "-u" || args[i-1] == "--user") && strings.Contains(masked, ":"):
			masked = masked[:strings.IndexByte(masked, ':')+1] + Masked
		case shortPassword && len(masked) > 2 && strings.HasPrefix(masked, "-p") && !portLike(masked[2:]):
			masked = "-p" + Masked
		default:
			masked = maskText(masked)
		}
		if masked == args[i] {
			continue
		}
		if out == nil {
			out = append([]string(nil), args...)
		}
		out[i] = masked
	}
	if out == nil {
		return args
	}
	return out
}

// valueOf reports whether arg is the secret that the flag before it announced.
func valueOf(flag, arg string, shortPassword bool) bool {
	if len(flag) < 2 || flag[0] != '-' || strings.HasPrefix(arg, "--") || strings.ContainsAny(flag, "= \t\n:") {
		return false
	}
	if flag == "-p" {
		return shortPassword && !portLike(arg)
	}
	return secretName(flag)
}

// takesShortPassword reports whether -p means a password here, and not a port, a path or a package: for programs where
// it does, and beside a flag that names a user.
func takesShortPassword(args []string) bool {
	for i, a := range args {
		switch a {
		case "-u", "-U", "--user", "--username":
			return true
		}
		if i == 0 {
			switch filepath.Base(a) {
			case "mysql", "mysqldump", "mysqladmin", "mariadb", "mongo", "mongosh", "mongodump", "sshpass":
				return true
			}
		}
	}
	return false
}

// portLike reports whether s is a port, a port range or a port mapping.
func portLike(s string) bool {
	return strings.Trim(s, "0123456789:-./tcpud") == "" && len(s) <= 21
}

// maskText masks what is secret within one argument, which may be a whole shell script.
func maskText(s string) string {
	if eq := strings.IndexByte(s, '='); eq > 0 && nameLike(s[:eq]) && secretName(s[:eq]) {
		return s[:eq+1] + Masked
	}
	s = maskURLs(s)
	s = maskPairs(s)
	return maskTokens(s)
}

// nameLike reports whether s can be the name of a flag or a variable.
func nameLike(s string) bool {
	for i := 0; i < len(s); i++ {
		if !nameByte(s[i]) {
			return false
		}
	}
	return s != ""
}

func nameByte(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '_' || c == '-' || c == '.'
}

// secretName reports whether a flag, variable, parameter or header of this name holds a secret.
func secretName(name string) bool {
	name = strings.TrimLeft(name, "-")
	lower := strings.ToLower(name)
	for _, part := range [...]string{"token", "secret", "passw", "passphrase", "credential", "apikey", "accesskey", "privatekey",
		"authkey", "authoriz", "cookie", "signature", "bearer"} {
		if strings.Contains(lower, part) {
			return true
		}
	}
	for start, i := 0, 0; i <= len(name); i++ {
		if i < len(name) && !wordBreak(name, i) {
			continue
		}
		switch strings.Trim(lower[start:i], "_-.") {
		case "key", "keys", "pass", "pwd", "auth", "pat", "psk", "pgpass":
			return true
		}
		start = i
	}
	return false
}

// wordBreak reports whether a new word begins at i: after a separator or where camel case steps up.
func wordBreak(name string, i int) bool {
	c := name[i]
	if c == '_' || c == '-' || c == '.' {
		return true
	}
	return i > 0 && 'A' <= c && c <= 'Z' && 'a' <= name[i-1] && name[i-1] <= 'z'
}

// maskURLs masks userinfo: the part of an authority before its last @ (RFC 3986 section 3.2.1), also where a password
// that should have been percent-encoded holds a slash, and the user:password@tcp(host) of data source names.
func maskURLs(s string) string {
	var b strings.Builder
	rest := s
	for {
		i := strings.Index(rest, "://")
		if i < 0 {
			break
		}
		b.WriteString(rest[:i+3])
		rest = rest[i+3:]
		if n := userinfo(cutAny(rest, " \t\r\n'\"`")); n > 0 {
			b.WriteString(Masked)
			rest = rest[n:]
		}
	}
	if at := strings.IndexByte(rest, '@'); b.Len() == 0 && at > 0 && dataSource(rest[:at], rest[at+1:]) {
		return Masked + rest[at:]
	}
	if b.Len() == 0 {
		return s
	}
	b.WriteString(rest)
	return b.String()
}

// userinfo returns the length of the userinfo at the start of what follows "://", without its @.
func userinfo(s string) int {
	authority := cutAny(s, "/?#")
	if at := strings.LastIndexByte(authority, '@'); at >= 0 {
		if strings.IndexByte(authority[:at], ':') >= 0 {
			at = strings.LastIndexByte(cutAny(s, "?#"), '@')
		}
		return at
	}
	colon := strings.LastIndexByte(authority, ':')
	if colon < 0 || strings.Trim(authority[colon+1:], "0123456789") == "" && colon+1 < len(authority) {
		return 0
	}
	return max(strings.LastIndexByte(s, '@'), 0)
}

// cutAny returns s up to the first of the characters.
func cutAny(s, chars string) string {
	if i := strings.IndexAny(s, chars); i >= 0 {
		return s[:i]
	}
	return s
}

// dataSource reports whether the text around an @ is that of user:password@tcp(host:port)/db.
func dataSource(before, after string) bool {
	open := strings.IndexByte(after, '(')
	return open >= 0 && open <= 8 && nameLike("x"+after[:open]) && strings.IndexByte(before, ':') > 0 && !strings.ContainsAny(before, " \t\n")
}

// maskPairs masks the value of each NAME=VALUE, NAME: VALUE, "NAME": "VALUE" and --NAME VALUE in s with a secret name.
func maskPairs(s string) string {
	var b strings.Builder
	done := 0
	for i := 0; i < len(s); {
		if !nameByte(s[i]) {
			i++
			continue
		}
		start := i
		for i < len(s) && nameByte(s[i]) {
			i++
		}
		from, to := pairValue(s, start, i)
		if from < 0 || !secretName(s[start:i]) {
			continue
		}
		b.WriteString(s[done:from])
		b.WriteString(Masked)
		done, i = to, to
	}
	if done == 0 {
		return s
	}
	b.WriteString(s[done:])
	return b.String()
}

// pairValue finds the value that belongs to the name s[start:end]; from is negative when there is none.
func pairValue(s string, start, end int) (from, to int) {
	i := end
	if i < len(s) && (s[i] == '"' || s[i] == '\'') {
		i++
	}
	if i == len(s) {
		return -1, 0
	}
	sep := s[i]
	switch {
	case sep == '=' || sep == ':':
		i++
	case (sep == ' ' || sep == '\t') && s[start] == '-':
	default:
		return -1, 0
	}
	for i < len(s) && (s[i] == ' ' || s[i] == '\t') {
		i++
	}
	if i == len(s) || sep == ' ' && s[i] == '-' {
		return -1, 0
	}
	if q := s[i]; q == '"' || q == '\'' {
		if n := strings.IndexByte(s[i+1:], q); n >= 0 {
			return i + 1, i + 1 + n
		}
		return i + 1, len(s)
	}
	stop := " \t\r\n'\"&;,"
	if sep == ':' {
		stop = "\r\n'\","
	}
	if n := strings.IndexAny(s[i:], stop); n >= 0 {
		return i, i + n
	}
	return i, len(s)
}

// maskTokens masks words that have the form of well-known tokens, wherever they stand.
func maskTokens(s string) string {
	var b strings.Builder
	done := 0
	for i := 0; i < len(s); i++ {
		start := i
		for i < len(s) && nameByte(s[i]) {
			i++
		}
		if i-start >= minToken && tokenPrefix(s[start:i]) {
			b.WriteString(s[done:start])
			b.WriteString(Masked)
			done = i
		}
	}
	if done == 0 {
		return s
	}
	b.WriteString(s[done:])
	return b.String()
}

// minToken is the length from which a word with a well-known prefix is taken for a token.
const minToken = 20

func tokenPrefix(word string) bool {
	for _, prefix := range [...]string{"ghp_", "gho_", "ghs_", "ghu_", "github_pat_", "glpat-", "sk-", "sk_live_", "rk_live_", "xoxb-", "xoxp-",
		"xapp-", "npm_", "hf_", "AKIA", "ASIA", "eyJ", "AIza", "ntn_", "dckr_pat_", "SG."} {
		if strings.HasPrefix(word, prefix) {
			return true
		}
	}
	return false
}
