//go:build unix

package creds

import (
	"context"
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weir-dev/weir/tunnel"
)

// TestWatch: who ends is told within the interval, once; who only changes is not.
func TestWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir() + "/edge"
		var ahead atomic.Int64 // of the bubble's clock, so that no day of looks has to pass
		clock := func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
		s, err := OpenStore(StoreConfig{Dir: dir, Create: true, Clock: clock})
		if err != nil {
			t.Fatal(err)
		}
		keysProcess, err := OpenStore(StoreConfig{Dir: dir, Clock: clock}) // as weir keys does
		if err != nil {
			t.Fatal(err)
		}
		_, csr, err := newKey()
		if err != nil {
			t.Fatal(err)
		}
		enrol := func(name string) tunnel.Identity {
			t.Helper()
			_, request, err := newKey()
			if err != nil {
				t.Fatal(err)
			}
			if name == "alice" {
				request = csr
			}
			token := mustToken(t, s, TokenRequest{Client: name})
			id, err := s.grant2(&enrolRequest{token: token.ID, secret: token.secret, request: request})
			if err != nil {
				t.Fatal(err)
			}
			return id
		}
		var mu sync.Mutex
		var told []string
		since := func(d time.Duration) string {
			time.Sleep(d)
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			defer func() { told = nil }()
			slices.Sort(told)
			return fmt.Sprint(told)
		}
		alice, bob, carol := enrol("alice"), enrol("bob"), enrol("carol")
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go s.Watch(ctx, func(gone []tunnel.Identity) {
			mu.Lock()
			defer mu.Unlock()
			for _, id := range gone {
				told = append(told, id.Client)
			}
		})
		if got := since(time.Minute); got != "[]" {
			t.Errorf("nothing has happened: %v", got)
		}
		if err := keysProcess.Revoke(bob); err != nil {
			t.Fatal(err)
		}
		if got := since(watchEvery); got != "[bob]" {
			t.Errorf("bob was revoked: %v", got)
		}
		if err := s.Check(bob); err == nil || s.Check(alice) != nil {
			t.Error("Check says otherwise")
		}
		if got := since(time.Minute); got != "[]" {
			t.Errorf("told again: %v", got)
		}
		enrol("bob")
		if err := keysProcess.Revoke(bob); err != nil { // between two looks
			t.Fatal(err)
		}
		if got := since(watchEvery); got != "[bob]" {
			t.Errorf("bob came back and was revoked between two looks: %v", got)
		}
		if _, err := s.Renew(alice, csr); err != nil {
			t.Fatal(err)
		}
		if got := since(time.Minute); got != "[]" {
			t.Errorf("a renewal: %v", got)
		}
		enrol("carol") // with another key
		if got := since(watchEvery); got != "[carol]" || s.Counts(Admission{carol, 1}) == nil || s.Counts(Admission{carol, 2}) != nil {
			t.Errorf("a second enrolment: %v", got)
		}
		if got := since(time.Minute); got != "[]" {
			t.Errorf("told again: %v", got)
		}
		ahead.Store(int64(Lifetime))
		if got := since(watchEvery); got != "[alice carol]" {
			t.Errorf("the certificates have expired: %v", got)
		}

		enrol("dora")
		if got := since(watchEvery); got != "[]" {
			t.Errorf("dora has come: %v", got)
		}
		enrol("fred")
		enrol("fred")
		if got := since(watchEvery); got != "[fred]" {
			t.Errorf("fred has enrolled twice between two looks: %v", got)
		}
		if err := os.Rename(dir, dir+"-away"); err != nil {
			t.Fatal(err)
		}
		if got := since(blindFor - time.Second); got != "[]" {
			t.Errorf("the files cannot be read for a moment: %v", got)
		}
		if got := since(2 * time.Second); got != "[dora fred]" {
			t.Errorf("nobody can be looked up: %v", got)
		}
		if err := os.Rename(dir+"-away", dir); err != nil {
			t.Fatal(err)
		}
		since(time.Second)
		if err := keysProcess.Revoke(tunnel.Identity{Space: "default", Client: "dora"}); err != nil {
			t.Fatal(err)
		}
		if got := since(time.Second); got != "[dora]" {
			t.Errorf("dora came back and was revoked: %v", got)
		}
		enrol("eve")
		since(time.Second)
		if _, err := keysProcess.Rotate(true); err != nil {
			t.Fatal(err)
		}
		if got := since(time.Second); got != "[eve fred]" {
			t.Errorf("the authority was dropped: %v", got)
		}
	})
}

// TestRevocationEndsConnections: another process revokes, and the live connection of an edge that watches ends.
func TestRevocationEndsConnections(t *testing.T) {
	c := newClock()
	e := listen(t, openStore(t, c))
	client, other := mustEnroll(t, e, TokenRequest{}, "laptop", c), mustEnroll(t, e, TokenRequest{}, "other", c)
	live, _, err := connect(t, e.addr, client.Client)
	if err != nil {
		t.Fatal(err)
	}
	stays, _, err := connect(t, e.addr, other.Client)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		e.Watch(ctx, func(gone []tunnel.Identity) {
			e.mu.Lock()
			defer e.mu.Unlock()
			for conn, id := range e.conns {
				if slices.Contains(gone, id.Identity) && e.Counts(id) != nil {
					conn.CloseWithError(7, "revoked")
				}
			}
		})
	}()
	keysProcess, err := OpenStore(StoreConfig{Dir: e.dir, Clock: c.Now})
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	if err := keysProcess.Revoke(client.Identity()); err != nil {
		t.Fatal(err)
	}
	select {
	case <-live.Context().Done():
		t.Logf("the connection ended after %v", time.Since(start))
	case <-time.After(10 * time.Second):
		t.Error("the connection of a revoked client goes on")
	}
	if _, err := ask(stays); err != nil {
		t.Errorf("the other client's connection: %v", err)
	}
	cancel()
	<-done
}
