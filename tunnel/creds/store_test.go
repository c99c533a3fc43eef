//go:build unix

package creds

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weir-dev/weir/tunnel"
)

// helperEnv has the test binary do one thing with the store in this directory instead of running tests.
const helperEnv = "WEIR_TEST_CREDS_HELPER"

// helper makes tokens until it has made n, or for ever.
func helper(dir string, n int) error {
	s, err := OpenStore(StoreConfig{Dir: dir, Create: true})
	if err != nil {
		return err
	}
	for i := 0; i != n; i++ {
		if _, err := s.NewToken(TokenRequest{TTL: time.Second}); err != nil {
			return err
		}
		fmt.Println("made")
	}
	return nil
}

func startHelper(t *testing.T, dir string, n int) (*exec.Cmd, *bytes.Buffer) {
	t.Helper()
	cmd := exec.Command(os.Args[0], dir, fmt.Sprint(n))
	cmd.Env = append(os.Environ(), helperEnv+"=1")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd, &out
}

// TestSharedByProcesses: what several processes write at one time is all there afterwards, the first one's keys included.
func TestSharedByProcesses(t *testing.T) {
	dir := t.TempDir() + "/edge"
	const processes, each = 3, 20
	var cmds []*exec.Cmd
	var outs []*bytes.Buffer
	for range processes {
		cmd, out := startHelper(t, dir, each)
		cmds, outs = append(cmds, cmd), append(outs, out)
	}
	for i, cmd := range cmds {
		if err := cmd.Wait(); err != nil {
			t.Fatalf("%v: %s", err, outs[i])
		}
	}
	s, err := OpenStore(StoreConfig{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	st, err := s.load()
	if err != nil || len(st.registry.Tokens) != processes*each {
		t.Errorf("%d tokens of %d, %v", len(st.registry.Tokens), processes*each, err)
	}
}

// TestKilledWriter: a process that is killed at any time leaves a store that is whole, and the lock free.
func TestKilledWriter(t *testing.T) {
	dir := t.TempDir() + "/edge"
	s, err := OpenStore(StoreConfig{Dir: dir, Create: true})
	if err != nil {
		t.Fatal(err)
	}
	before, err := s.Keys()
	if err != nil {
		t.Fatal(err)
	}
	for i := range 10 {
		cmd, out := startHelper(t, dir, -1)
		time.Sleep(time.Duration(i) * 7 * time.Millisecond) // anywhere in what it does
		cmd.Process.Kill()
		if cmd.Wait() == nil || strings.Contains(out.String(), "keys") {
			t.Fatalf("the helper ended by itself: %s", out)
		}
		fresh, err := OpenStore(StoreConfig{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		if k, err := fresh.Keys(); err != nil || k != before {
			t.Fatalf("the keys have changed: %v", err)
		}
		if _, err := fresh.NewToken(TokenRequest{TTL: time.Second}); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, partial+"1"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.NewToken(TokenRequest{}); err != nil {
		t.Fatal(err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, partial+"*")); len(left) > 0 {
		t.Errorf("left over: %v", left)
	}
}

// TestHeldLock: who waits for the lock waits for a time.
func TestHeldLock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, err := OpenStore(StoreConfig{Dir: t.TempDir() + "/edge", Create: true})
		if err != nil {
			t.Fatal(err)
		}
		held, err := lockFile(s.path(lockName))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.NewToken(TokenRequest{}); err == nil || !strings.Contains(err.Error(), "another process") {
			t.Errorf("the lock is held: %v", err)
		}
		if _, err := s.Clients(); err != nil {
			t.Errorf("readers need no lock: %v", err)
		}
		time.AfterFunc(time.Second, func() { held.Close() })
		if _, err := s.NewToken(TokenRequest{}); err != nil {
			t.Errorf("the lock was let go: %v", err)
		}
	})
}

// TestOnlyTheOwner: a store, or credentials, that others may read are refused, not mended in silence: who knows who has read them.
func TestOnlyTheOwner(t *testing.T) {
	c := newClock()
	s := openStore(t, c)
	e := listen(t, s)
	conf := ClientConfig{Dir: t.TempDir() + "/client", Clock: c.Now}
	if _, err := e.enrollIn(t, mustToken(t, s, TokenRequest{}), "laptop", conf); err != nil {
		t.Fatal(err)
	}
	open := func() error {
		_, err := OpenStore(StoreConfig{Dir: s.dir, Create: true})
		return err
	}
	load := func() error {
		_, err := LoadClient(conf)
		return err
	}
	for _, test := range []struct {
		path string
		mode os.FileMode
		open func() error
	}{
		{s.path(keysFile), 0o640, open}, {s.path(keysFile), 0o604, open}, {s.path(registryFile), 0o602, open},
		{s.dir, 0o750, open}, {filepath.Join(conf.Dir, clientFile), 0o644, load},
	} {
		fi, err := os.Stat(test.path)
		if err != nil {
			t.Fatal(err)
		}
		if fi.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s was made with %v", test.path, fi.Mode())
		}
		if err := os.Chmod(test.path, test.mode); err != nil {
			t.Fatal(err)
		}
		var open *PermissionError
		if err := test.open(); !errors.As(err, &open) || open.Path != test.path {
			t.Errorf("%s with %v: %v", test.path, test.mode, err)
		}
		if err := os.Chmod(test.path, fi.Mode()); err != nil {
			t.Fatal(err)
		}
		if err := test.open(); err != nil {
			t.Error(err)
		}
	}
	if err := os.Chmod(conf.Dir, 0o755); err != nil {
		t.Fatal(err)
	}
	token := mustToken(t, s, TokenRequest{})
	if _, err := e.enrollIn(t, token, "other", conf); err == nil {
		t.Error("enrolled into a directory that others may read")
	}
	if err := os.Chmod(conf.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := e.enrollIn(t, token, "other", conf); err != nil {
		t.Errorf("the token was used for what failed here: %v", err)
	}
	if os.Geteuid() == 0 {
		if err := os.Chown(s.path(keysFile), 1, 1); err != nil {
			t.Fatal(err)
		}
		var open *PermissionError
		if _, err := OpenStore(StoreConfig{Dir: s.dir}); !errors.As(err, &open) || open.UID != 1 {
			t.Errorf("keys of somebody else: %v", err)
		}
	}
}

// TestDamage: a damaged store is an error that names the file, holds none of it, and makes no other in its place.
func TestDamage(t *testing.T) {
	for name, damage := range map[string]func([]byte) []byte{
		"empty": func([]byte) []byte { return nil }, "cut off": func(b []byte) []byte { return b[:len(b)/2] },
		"not JSON": func(b []byte) []byte { return append([]byte("x"), b...) }, "a newer version": func(b []byte) []byte { return bytes.Replace(b, []byte(`"version": 1`), []byte(`"version": 2`), 1) },
		"null": func(b []byte) []byte {
			return []byte(`{"version":1,"authorities":[null],"clients":[null],"tokens":[null]}`)
		},
		"gone": nil,
	} {
		for _, file := range []string{keysFile, registryFile} {
			t.Run(name+" "+file, func(t *testing.T) {
				s := openStore(t, newClock())
				mustToken(t, s, TokenRequest{})
				whole, err := os.ReadFile(s.path(file))
				if err != nil {
					t.Fatal(err)
				}
				if damage == nil {
					err = os.Remove(s.path(file))
				} else {
					err = os.WriteFile(s.path(file), damage(whole), 0o600)
				}
				if err != nil {
					t.Fatal(err)
				}
				_, err = OpenStore(StoreConfig{Dir: s.dir, Create: true})
				if err == nil {
					t.Fatal("opened")
				}
				if !strings.Contains(err.Error(), file) || strings.Contains(err.Error(), `"key"`) {
					t.Errorf("the error says %q", err)
				}
				if _, err := s.NewToken(TokenRequest{}); err == nil {
					t.Error("a store that was open already writes over it")
				}
			})
		}
	}
}

// TestInterruptedBeginning: a process that died while it made the first keys is no damage.
func TestInterruptedBeginning(t *testing.T) {
	s := openStore(t, newClock())
	if err := os.Remove(s.path(keysFile)); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenStore(StoreConfig{Dir: s.dir}); err == nil {
		t.Error("opened without keys")
	}
	if _, err := OpenStore(StoreConfig{Dir: s.dir, Create: true}); err != nil {
		t.Error(err)
	}
}

// TestNothingIsMadeByLooking: to list, revoke or rotate is not to make keys.
func TestNothingIsMadeByLooking(t *testing.T) {
	dir := t.TempDir() + "/edge"
	if _, err := OpenStore(StoreConfig{Dir: dir}); !errors.Is(err, ErrNoStore) {
		t.Error(err)
	}
	if _, err := os.Stat(dir); err == nil {
		t.Error("the directory was made")
	}
}

// TestHashesOnly: whoever reads the registry cannot use what is in it.
func TestHashesOnly(t *testing.T) {
	s := openStore(t, newClock())
	token := mustToken(t, s, TokenRequest{})
	b, err := os.ReadFile(s.path(registryFile))
	if err != nil {
		t.Fatal(err)
	}
	for _, enc := range []*base64.Encoding{base64.StdEncoding, base64.RawURLEncoding} {
		if bytes.Contains(b, []byte(enc.EncodeToString(token.secret[:]))) {
			t.Error("the secret is in the registry")
		}
	}
	h := sha256.Sum256(token.secret[:])
	if !bytes.Contains(b, []byte(base64.StdEncoding.EncodeToString(h[:]))) {
		t.Error("the hash is not")
	}
}

// TestBoundsOfAStore: there is room for so many tokens and clients; those that are long of no use make room.
func TestBoundsOfAStore(t *testing.T) {
	c := newClock()
	s := openStore(t, c)
	err := s.update(func(st *state, now time.Time) error {
		for i := range MaxTokens {
			st.registry.Tokens = append(st.registry.Tokens, &tokenRecord{ID: fmt.Sprint(i), Expires: now.Add(time.Minute)})
		}
		for i := range MaxClients {
			st.registry.add(&Record{Space: "s", Client: fmt.Sprintf("c%d", i), Expires: now.Add(Lifetime)})
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.NewToken(TokenRequest{}); err == nil {
		t.Errorf("more than %d tokens", MaxTokens)
	}
	c.forward(time.Hour)
	token := mustToken(t, s, TokenRequest{})
	_, csr, err := newKey()
	if err != nil {
		t.Fatal(err)
	}
	enrol := (&enrolRequest{token: token.ID, secret: token.secret, name: "x", request: csr})
	if _, err := s.grant2(enrol); err == nil || !strings.Contains(err.Error(), "the most") {
		t.Errorf("more than %d clients: %v", MaxClients, err)
	}
	c.forward(forgotten + Lifetime)
	token = mustToken(t, s, TokenRequest{})
	enrol.token, enrol.secret = token.ID, token.secret
	if _, err := s.grant2(enrol); err != nil {
		t.Errorf("after %v: %v", forgotten, err)
	}
	if list, err := s.Clients(); err != nil || len(list) != 1 {
		t.Errorf("%d clients, %v", len(list), err)
	}
}

func (s *Store) grant2(r *enrolRequest) (tunnel.Identity, error) {
	_, id, err := s.grant(r.encode())
	return id, err
}

// TestVersionsAreToldApart: two versions of a file that are written within one tick of the clock and have one length are two.
func TestVersionsAreToldApart(t *testing.T) {
	dir, tick := t.TempDir(), time.Now()
	old, fresh := filepath.Join(dir, "old"), filepath.Join(dir, "fresh")
	var stamps [2]stamp
	for _, path := range []string{old, fresh} {
		if err := errors.Join(os.WriteFile(path, []byte("x"), 0o600), os.Chtimes(path, tick, tick)); err != nil {
			t.Fatal(err)
		}
	}
	if err := later(fresh, old); err != nil {
		t.Fatal(err)
	}
	for i, path := range []string{old, fresh} {
		fi, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		stamps[i] = stampOf(fi)
	}
	if stamps[0] == stamps[1] || !stamps[1].modified.After(stamps[0].modified) {
		t.Errorf("%v and %v", stamps[0], stamps[1])
	}
}

// TestManyAtOnce: one store in many goroutines.
func TestManyAtOnce(t *testing.T) {
	c := newClock()
	e := listen(t, openStore(t, c))
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			name := fmt.Sprintf("c%d", i)
			token, err := e.NewToken(TokenRequest{Space: "acme"})
			if err != nil {
				t.Error(err)
				return
			}
			client, err := e.enroll(t, token, name, c)
			if err != nil {
				t.Error(err)
				return
			}
			if _, who, err := connect(t, e.addr, client.Client); err != nil || who != "acme/"+name+" hello" {
				t.Errorf("%q, %v", who, err)
			}
		})
	}
	wg.Wait()
	if list, err := e.Clients(); err != nil || len(list) != 8 {
		t.Errorf("%d clients, %v", len(list), err)
	}
}
