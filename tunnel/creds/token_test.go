package creds

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/sirupsen/logrus"
)

// TestTokenText: what a token says is what is read, and nothing that only looks like one is.
func TestTokenText(t *testing.T) {
	token := newToken(Pin{1, 2, 3})
	text := token.Text()
	if n := len(text); n > maxTokenLen || strings.ContainsAny(text, " \n\"'$") {
		t.Fatalf("%d octets, or some that a shell would touch", n)
	}
	for name, good := range map[string]string{
		"as printed": text, "with the end of the line": text + "\r\n", "with a field of a later version": text + ".edge.example:443",
	} {
		if got, err := ParseToken(good); err != nil || got != token {
			t.Errorf("%s: %v", name, err)
		}
	}
	fields := strings.Split(text, ".")
	secret := fields[2]
	for name, bad := range map[string]string{
		"nothing": "", "another prefix": strings.Replace(text, "_et1", "_et2", 1), "no prefix": strings.TrimPrefix(text, TokenPrefix),
		"cut in the pin": text[:len(text)-1], "cut after the secret": strings.Join(fields[:3], "."), "cut in the secret": strings.Join(fields[:2], ".") + "." + secret[:20],
		"longer secret": strings.Replace(text, secret, secret+"AA", 1), "padding": strings.Replace(text, secret, secret+"=", 1),
		"line end inside": strings.Replace(text, secret, secret[:10]+"\n"+secret[10:], 1),
		"other alphabet":  strings.Replace(text, secret, strings.Repeat("+", len(secret)), 1),
		"bits left over":  strings.Replace(text, secret, strings.Repeat("A", len(secret)-1)+"B", 1),
		"too long":        text + "." + strings.Repeat("x", maxTokenLen), "two tokens": text + "\n" + text,
	} {
		_, err := ParseToken(bad)
		if err == nil {
			t.Errorf("%s: taken for a token", name)
		} else if strings.Contains(err.Error(), secret[:10]) {
			t.Errorf("%s: the error says %q", name, err)
		}
	}
}

// TestTokenKeepsItsSecret: whatever prints a token prints its id.
func TestTokenKeepsItsSecret(t *testing.T) {
	token := newToken(Pin{})
	secret := base64.RawURLEncoding.EncodeToString(token.secret[:])
	var log bytes.Buffer
	l := logrus.New()
	l.SetOutput(&log)
	l.WithField("token", token).WithError(fmt.Errorf("bad %v", token)).Error(token)
	slog.New(slog.NewJSONHandler(&log, nil)).Error("x", "token", token, "pointer", &token)
	marshalled, err := json.Marshal(map[string]any{"token": token, "pointer": &token})
	if err != nil {
		t.Fatal(err)
	}
	all := log.String() + string(marshalled) + fmt.Sprint(token, &token, []Token{token}, struct{ T Token }{token})
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		all += fmt.Sprintf(verb, token) + fmt.Sprintf(verb, struct{ T Token }{token})
	}
	for _, spelling := range []string{secret, fmt.Sprintf("%x", token.secret[:]), fmt.Sprint(token.secret[:]), fmt.Sprint(token.secret[0], token.secret[1])} {
		if strings.Contains(all, spelling) {
			t.Errorf("the secret is in:\n%s", all)
		}
	}
	if !strings.Contains(all, token.ID) {
		t.Error("nothing says which token it is")
	}
}

func FuzzToken(f *testing.F) {
	f.Add(newToken(Pin{}).Text())
	f.Add("weir_et1.a.b.c")
	f.Fuzz(func(t *testing.T, text string) {
		token, err := ParseToken(text)
		if err != nil {
			return
		}
		again, err := ParseToken(token.Text())
		if err != nil || again != token {
			t.Errorf("%q is not read as it was written", text)
		}
		if !strings.HasPrefix(strings.TrimSpace(text), token.Text()) {
			t.Errorf("%q has another spelling than %q", text, token.Text())
		}
	})
}

// TestNames: the names of spaces and clients are safe in a URI, a file name, a table and a terminal.
func TestNames(t *testing.T) {
	for name, good := range map[string]bool{
		"a": true, "laptop": true, "9-to_5.example": true, strings.Repeat("a", maxName): true,
		"": false, "-a": false, ".": false, "..": false, "_x": false, "Laptop": false, "a/b": false, "a b": false, "é": false, "a\n": false,
		"a\x1b[31m": false, "a\u202eb": false, strings.Repeat("a", maxName+1): false, "a%2fb": false, "*": false,
	} {
		if err := CheckName(name); (err == nil) != good {
			t.Errorf("%q: %v", name, err)
		} else if err != nil && strings.ContainsAny(err.Error(), "\x1b\n\u202e") {
			t.Errorf("the error has the name as it is: %q", err)
		}
	}
	for host, want := range map[string]string{
		"Ada's MacBook Pro.local": "adasmacbookpro", "laptop.corp.example": "laptop", "": "client", "日本": "client", "-_-": "client", strings.Repeat("x", 80): strings.Repeat("x", maxName),
	} {
		if got := SafeName(host); got != want || CheckName(got) != nil {
			t.Errorf("SafeName(%q) = %q, want %q", host, got, want)
		}
	}
}
