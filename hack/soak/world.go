//go:build linux

package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"time"

	"github.com/weir-dev/weir/internal/boxed"
	"github.com/weir-dev/weir/internal/playground"
)

// The world's addresses. Names below churn.example are those of the servers.
var (
	server  = netip.MustParseAddr("198.51.100.20") // echo on TCP and UDP port 7
	closed  = netip.MustParseAddr("198.51.100.21") // nothing listens
	hole    = netip.MustParseAddr("203.0.113.10")  // nobody answers
	secret  = netip.MustParseAddr("198.51.100.66") // not allowed
	names   = 100
	allowed = []string{"*.churn.example:7", server.String() + ":*", closed.String() + ":*", hole.String() + ":*"}
)

func populate(w *playground.World) error {
	var errs []error
	for i := range names {
		errs = append(errs, w.Name(fmt.Sprintf("n%d.churn.example", i), server))
	}
	at := netip.AddrPortFrom(server, 7)
	errs = append(errs, w.Address(closed), w.Address(secret), w.ServeEcho(at), w.ServeEchoUDP(at))
	return errors.Join(errs...)
}

// soak is one run of this command.
type soak struct {
	options
	world *playground.World
	dir   string
	self  string
}

func newSoak(o options, w *playground.World) (*soak, error) {
	self, err := boxed.Copy(w.Dir, "soak")
	return &soak{options: o, world: w, dir: w.Dir, self: self}, err
}

// start runs a part of this binary in a sandbox, as an ordinary user of the host.
func (s *soak) start(name string, args ...string) (*boxed.Box, error) {
	how := boxed.How{Weir: s.weir, Self: s.self, Home: s.dir, Args: []string{"--name", name, "--door", s.door, "--mode", "enforce", "--events", filepath.Join(s.dir, name+".jsonl")}}
	for _, rule := range allowed {
		how.Args = append(how.Args, "--allow", rule)
	}
	return how.Start(args...)
}

// quick dials with a short patience.
func quick(network, to string) (net.Conn, error) { return net.DialTimeout(network, to, 2*time.Second) }
