package session

import (
	"context"
	"io"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weir-dev/weir/tunnel"
)

// TestStalled: flows that nobody reads do not stop those of others, in either direction, and those of the worst are reset.
func TestStalled(t *testing.T) {
	for _, direction := range []string{"up", "down"} {
		t.Run(direction, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var all sync.WaitGroup
				never := make(chan struct{})
				var ends []net.Conn
				edge, client, _ := simulated(t)
				e, c := joined(t, edge, client, handler{dial: func(_ context.Context, o tunnel.Open) (net.Conn, error) {
					a, b := net.Pipe()
					all.Go(func() {
						defer b.Close()
						switch {
						case o.Sandbox == "modest":
							io.Copy(b, b)
						case direction == "down":
							io.Copy(b, endless{})
						default: // nobody reads
							<-never
						}
					})
					return a, nil
				}})
				defer func() {
					e.CloseWith(tunnel.OK, "")
					c.CloseWith(tunnel.OK, "")
					close(never)
					for _, y := range ends {
						y.Close()
					}
					all.Wait()
				}()
				var greedy []tunnel.Stream
				for range 200 {
					s, err := e.OpenStream(context.Background(), tunnel.Open{Owner: tunnel.Owner{Sandbox: "greedy"}, Network: "tcp", Addr: somewhere.Addr})
					if err != nil {
						t.Fatal(err)
					}
					greedy = append(greedy, s)
					if direction == "down" {
						x, y := net.Pipe()
						all.Go(func() { s.(io.WriterTo).WriteTo(x) })
						ends = append(ends, y)
					} else {
						all.Go(func() { s.(io.ReaderFrom).ReadFrom(endless{}) })
					}
				}
				time.Sleep(time.Minute)
				s, err := e.OpenStream(context.Background(), tunnel.Open{Owner: tunnel.Owner{Sandbox: "modest"}, Network: "tcp", Addr: somewhere.Addr})
				if err != nil {
					t.Fatal(err)
				}
				s.SetDeadline(time.Now().Add(10 * time.Second))
				b := make([]byte, 100_000)
				go s.Write(b)
				if _, err := io.ReadFull(s, b); err != nil {
					t.Errorf("beside flows that nobody reads: %v", err)
				}
				l := e.link
				if direction == "up" {
					l = c.link
				}
				if l.stalls.reset == 0 || l.stalls.reset == uint64(len(greedy)) {
					t.Errorf("%d flows were reset", l.stalls.reset)
				}
				s.Close()
			})
		})
	}
}

// endless has octets for ever.
type endless struct{}

func (endless) Read(b []byte) (int, error) { return len(b), nil }
