package testnet

import (
	"errors"
	"io"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

func TestConn(t *testing.T) {
	t.Run("half-close leaves the other way open", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			a, b := Pair()
			a.Write([]byte("question"))
			a.CloseWrite()
			got, err := io.ReadAll(b)
			if string(got) != "question" || err != nil {
				t.Fatalf("read %q, %v", got, err)
			}
			b.Write([]byte("answer"))
			b.Close()
			if got, _ := io.ReadAll(a); string(got) != "answer" {
				t.Fatalf("read %q", got)
			}
		})
	})
	t.Run("abort resets the peer", func(t *testing.T) {
		a, b := Pair()
		a.Abort()
		if _, err := b.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Fatal(err)
		}
	})
	t.Run("a deadline ends a read and can be lifted", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			a, b := Pair()
			start := time.Now()
			a.SetReadDeadline(start.Add(time.Minute))
			if _, err := a.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) != time.Minute {
				t.Fatalf("%v after %v", err, time.Since(start))
			}
			a.SetReadDeadline(time.Time{})
			b.Write([]byte("x"))
			if n, err := a.Read(make([]byte, 1)); n != 1 || err != nil {
				t.Fatal(n, err)
			}
		})
	})
	t.Run("a full window holds the writer back", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			a, b := Pair()
			done := make(chan struct{})
			go func() { a.Write(make([]byte, window+1)); close(done) }()
			synctest.Wait()
			select {
			case <-done:
				t.Fatal("write did not block")
			default:
			}
			io.ReadFull(b, make([]byte, 1))
			<-done
		})
	})
}
