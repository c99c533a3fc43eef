//go:build linux && !client

package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weir-dev/weir/tunnel"
	"github.com/weir-dev/weir/tunnel/creds"
	"github.com/weir-dev/weir/tunnel/edge"
)

// weirRun runs a command line in this process, as Main does, and returns its stdout and its error with the fix.
func weirRun(t *testing.T, args ...string) (stdout, failed string) {
	t.Helper()
	root := newRootCommand()
	var out bytes.Buffer
	root.SetOut(&out)
	root.SetErr(&bytes.Buffer{})
	root.SetArgs(args)
	err := tokenInArgs(args)
	if err == nil {
		err = root.ExecuteContext(t.Context())
	}
	if err != nil {
		var text bytes.Buffer
		(&ui{w: &text}).fail(err)
		failed = text.String()
	}
	return out.String(), failed
}

// newEnrolHome gives the test a home of its own, with keys, and an edge that has them. Its UDP and TCP ports are two.
func newEnrolHome(t *testing.T) (udp, tcp string) {
	t.Helper()
	home := t.TempDir()
	for _, name := range []string{"XDG_STATE_HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"} {
		t.Setenv(name, filepath.Join(home, name))
	}
	t.Setenv(tokenFileEnv, "")
	store, err := openKeys("", true)
	if err != nil {
		t.Fatal(err)
	}
	u, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	e, err := edge.New(edge.Config{UDP: u, TCP: l, Store: store})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	return u.LocalAddr().String(), l.Addr().String()
}

// tokenFile makes a token by the command and returns a file with what it printed.
func tokenFile(t *testing.T, args ...string) string {
	t.Helper()
	out, failed := weirRun(t, append([]string{"keys", "token"}, args...)...)
	if failed != "" || strings.Count(out, "\n") != 1 || !strings.HasPrefix(out, creds.TokenPrefix) {
		t.Fatalf("keys token printed %q, %s", out, failed)
	}
	path := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(path, []byte(out), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestEnroll: what the two commands print is enough to become a client, by QUIC and where only TCP comes through.
func TestEnroll(t *testing.T) {
	udp, tcp := newEnrolHome(t)
	for name, addr := range map[string]string{"quic": udp, "websocket": tcp} {
		t.Run(name, func(t *testing.T) {
			out, failed := weirRun(t, "enroll", "--json", "--tunnel", "https://"+addr, "--token-file", tokenFile(t, "--space", "acme", "--client", name))
			if failed != "" {
				t.Fatal(failed)
			}
			var got enrolledResult
			if err := json.Unmarshal([]byte(out), &got); err != nil || got.Space != "acme" || got.Client != name || got.Edge != addr {
				t.Fatalf("%s %v", out, err)
			}
			client, err := creds.LoadClient(creds.ClientConfig{Dir: got.Dir})
			if err != nil || client.Identity() != (tunnel.Identity{Space: "acme", Client: name}) || !client.Expires().Equal(got.Expires) {
				t.Errorf("%v, %v", client, err)
			}
			if list, _ := weirRun(t, "keys", "list", "--space", "acme"); !strings.Contains(list, name+"  ") || !strings.Contains(list, "active") {
				t.Errorf("keys list:\n%s", list)
			}
			out, failed = weirRun(t, "keys", "revoke", "--space", "acme", name)
			if failed != "" || out != "revoked acme/"+name+"\n" {
				t.Errorf("%q %s", out, failed)
			}
			if list, _ := weirRun(t, "keys", "list"); !strings.Contains(list, "revoked") {
				t.Errorf("keys list:\n%s", list)
			}
		})
	}
}

// TestEnrollFails: each way in which it fails says what to do, and nothing of the token.
func TestEnrollFails(t *testing.T) {
	addr, _ := newEnrolHome(t)
	url := "https://" + addr
	used := tokenFile(t)
	if _, failed := weirRun(t, "enroll", "--tunnel", url, "--token-file", used, "--client", "laptop"); failed != "" {
		t.Fatal(failed)
	}
	foreign := tokenFile(t, "--keys", t.TempDir()+"/other")
	broken := filepath.Join(t.TempDir(), "broken")
	text, err := os.ReadFile(used)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(broken, text[:len(text)-10], 0o600); err != nil {
		t.Fatal(err)
	}
	token := strings.TrimSpace(string(text))
	for name, c := range map[string]struct {
		args []string
		want []string
	}{
		"used token":      {[]string{"--tunnel", url, "--token-file", used, "--client", "desktop"}, []string{"used already", "fix: ", "weir keys token"}},
		"foreign token":   {[]string{"--tunnel", url, "--token-file", foreign}, []string{"not the edge that the token is of", "fix: check HOST:PORT"}},
		"name in use":     {[]string{"--tunnel", url, "--token-file", tokenFile(t), "--client", "laptop"}, []string{"has enrolled already", "--client ANOTHER", "--client NAME"}},
		"broken token":    {[]string{"--tunnel", url, "--token-file", broken}, []string{"damaged", "fix: "}},
		"token in argv":   {[]string{"--tunnel", url, "--token-file", token}, []string{"on the command line", "it was not used", "fix: "}},
		"token as flag":   {[]string{"--tunnel", url, "--token-file=" + token}, []string{"on the command line"}},
		"token alone":     {[]string{token}, []string{"on the command line"}},
		"no token":        {[]string{"--tunnel", url}, []string{"--token-file is missing", "fix: weir keys token"}},
		"no such file":    {[]string{"--tunnel", url, "--token-file", "/nonexistent"}, []string{"no such file"}},
		"no edge":         {[]string{"--token-file", used}, []string{"--tunnel is missing", "fix: --tunnel https://HOST:PORT"}},
		"plain":           {[]string{"--tunnel", "http://" + addr, "--token-file", used}, []string{"want https://"}},
		"path":            {[]string{"--tunnel", url + "/x", "--token-file", used}, []string{"nothing else"}},
		"password":        {[]string{"--tunnel", "https://a:hunter2@" + addr, "--token-file", used}, []string{"nothing else"}},
		"port":            {[]string{"--tunnel", "https://a:70000", "--token-file", used}, []string{"port"}},
		"hostile host":    {[]string{"--tunnel", "https://a\x1b[2Jb", "--token-file", used}, []string{"not a URL"}},
		"bad name":        {[]string{"--tunnel", url, "--token-file", used, "--client", "../x"}, []string{"--client"}},
		"stray argument":  {[]string{"--tunnel", url, "laptop"}, []string{"want no argument"}},
		"nothing listens": {[]string{"--tunnel", "https://no-such-host.invalid", "--token-file", used}, []string{"no-such-host.invalid"}},
	} {
		t.Run(name, func(t *testing.T) {
			out, failed := weirRun(t, append([]string{"enroll"}, c.args...)...)
			if out != "" || failed == "" {
				t.Fatalf("printed %q, %q", out, failed)
			}
			for _, want := range c.want {
				if !strings.Contains(failed, want) {
					t.Errorf("does not say %q:\n%s", want, failed)
				}
			}
			if secret := strings.Split(token, ".")[2]; strings.Contains(failed, secret[:8]) || strings.Contains(failed, "\x1b") {
				t.Errorf("says too much:\n%s", failed)
			}
		})
	}
	t.Setenv(tokenFileEnv, token)
	if _, failed := weirRun(t, "enroll", "--tunnel", url); !strings.Contains(failed, "the name of a file belongs") || strings.Contains(failed, token) {
		t.Errorf("a token in the environment:\n%s", failed)
	}
	t.Setenv(tokenFileEnv, tokenFile(t))
	if _, failed := weirRun(t, "enroll", "--tunnel", url, "--client", "by-environment"); failed != "" {
		t.Error(failed)
	}
}

// TestKeysCommands: what is listed is JSON when that is asked for; what is wrong says what is right.
func TestKeysCommands(t *testing.T) {
	newEnrolHome(t)
	out, failed := weirRun(t, "keys", "token", "--json", "--space", "acme", "--ttl", "1h")
	var token struct {
		Token, ID, Space, Pin string
		Expires               time.Time
	}
	if err := json.Unmarshal([]byte(out), &token); err != nil || failed != "" || token.Space != "acme" || time.Until(token.Expires) < 55*time.Minute {
		t.Errorf("%s %s %v", out, failed, err)
	}
	if read, err := creds.ParseToken(token.Token); err != nil || read.ID != token.ID || read.Pin.String() != token.Pin {
		t.Errorf("%v, %v", read, err)
	}
	if out, failed = weirRun(t, "keys", "rotate"); failed != "" || !strings.Contains(out, "authority 2 signs") || !strings.Contains(out, "authority 1 counts until") {
		t.Errorf("%s%s", out, failed)
	}
	var list keysListed
	out, _ = weirRun(t, "keys", "list", "--json")
	if err := json.Unmarshal([]byte(out), &list); err != nil || len(list.Authorities) != 2 || !list.Authorities[0].Signs || len(list.Tokens) != 1 || list.Clients == nil {
		t.Errorf("%s %v", out, err)
	}
	secret := strings.Split(token.Token, ".")[2]
	if strings.Contains(out, secret) {
		t.Error("keys list shows a secret")
	}
	for want, args := range map[string][]string{
		"--now":                {"keys", "rotate"},
		"fix: weir keys list":  {"keys", "revoke", "nobody"},
		"fix: weir keys token": {"keys", "tokens"},
		`name "A B\x1b"`:       {"keys", "revoke", "A B\x1b"},
		"--space: name":        {"keys", "token", "--space", "../etc"},
		"--ttl":                {"keys", "token", "--ttl", "1000h"},
		"no keys have been":    {"keys", "list", "--keys", t.TempDir() + "/none"},
		"want CLIENT":          {"keys", "revoke"},
	} {
		if out, failed := weirRun(t, args...); out != "" || !strings.Contains(failed, want) {
			t.Errorf("%q: %q\n%s, want %q", args, out, failed, want)
		}
	}
	dir, err := keysDir("")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, failed := weirRun(t, "keys", "list"); !strings.Contains(failed, "other users may") || !strings.Contains(failed, fmt.Sprintf("fix: chmod 700 %s", dir)) {
		t.Errorf("keys that others may read:\n%s", failed)
	}
}

// TestCredentialsDir: what stands in --tunnel makes one directory's name, whatever it is.
func TestCredentialsDir(t *testing.T) {
	t.Setenv("XDG_DATA_HOME", "/data")
	for text, want := range map[string]string{
		"https://Edge.Example.": "/data/weir/tunnel/edge.example_443", "https://edge.example:8443/": "/data/weir/tunnel/edge.example_8443",
		"https://[2001:db8::1]:1": "/data/weir/tunnel/2001_db8__1_1", "https://192.0.2.1": "/data/weir/tunnel/192.0.2.1_443",
	} {
		e, err := parseEdge(text)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := credentialsDir(e); err != nil || got != want {
			t.Errorf("%s: %s, %v", text, got, err)
		}
	}
	for _, text := range []string{"https://", "https://..", "https://../../etc", "https://a/../b", "https://a b", "https://é", "https://a:0", "https://a?x", "https://a#x", "edge:443", "https:edge"} {
		if e, err := parseEdge(text); err == nil {
			t.Errorf("%s is taken for %v", text, e)
		}
	}
}

// TestTunnelCA: a file without a certificate is no root, and says so; one with some is added to the system's.
func TestTunnelCA(t *testing.T) {
	dir := t.TempDir()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ text, says string }{
		"good.pem":  {string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), ""},
		"empty.pem": {"", "no certificate in it"},
		"der.pem":   {string(der), "no certificate in it"},
	} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		var e edgeAddress
		err := e.trust(path)
		switch {
		case c.says == "" && (err != nil || e.roots == nil):
			t.Errorf("%s: %v", name, err)
		case c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says)):
			t.Errorf("%s: %v, want %q", name, err, c.says)
		}
	}
	if err := new(edgeAddress).trust(filepath.Join(dir, "absent")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("an absent file: %v", err)
	}
}
