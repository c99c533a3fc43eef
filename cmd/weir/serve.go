//go:build linux && !client

package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/weir-dev/weir/flow/event"
	"github.com/weir-dev/weir/internal/lockdown"
	"github.com/weir-dev/weir/tunnel/creds"
	"github.com/weir-dev/weir/tunnel/edge"
)

// serveFlags are the flags of "weir serve".
type serveFlags struct {
	listen, keys, socket, events, cert, key string
	json, noColor                           bool
	logLevel                                string
}

func newServeCommand(g *globals) *cobra.Command {
	f := &serveFlags{}
	cmd := &cobra.Command{
		Use:   "serve --tunnel-listen [HOST]:PORT",
		Short: "Let users' machines in, and give sandboxes a way to them",
		Long: `Runs the hosted end of tunnels, the edge. Users' machines connect to it ("weir connect"), by QUIC on the UDP port or, where
that is blocked, by WebSocket on the TCP port of the same number. The sandboxes that this user starts ("weir run") find it by a
UNIX socket; flows of theirs whose route is tunnel go to the clients of their space, and nowhere else.

A signal to end has clients told when to come again, and waits up to 30 seconds for the flows that are open; a second one
does not wait.`,
		Example: `  weir serve --tunnel-listen :7443
  (umask 077; weir keys token > token)                     and on the user's machine:
  weir connect --tunnel https://HOST:7443 --token-file token
  weir run --route tunnel -- CMD                           on this machine again`,
		Args: wants(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			f.json, f.noColor, f.logLevel = g.json, g.noColor, g.logLevel
			return f.serve(cmd)
		},
	}
	s := cmd.Flags()
	s.StringVar(&f.listen, "tunnel-listen", "", "`ADDRESS` for clients, UDP and TCP: :PORT or HOST:PORT")
	s.StringVar(&f.keys, "keys", "", "the `DIR` of the edge's keys, as for weir keys")
	s.StringVar(&f.socket, "socket", "", "UNIX socket for sandboxes (default: $XDG_RUNTIME_DIR/weir/edge.sock), `PATH`")
	s.StringVar(&f.events, "events", "", "event log, `PATH` (default: the state directory's events.jsonl)")
	s.StringVar(&f.cert, "tls-cert", "", "certificate chain for WebSocket, a PEM `FILE` (default: of the edge's own authority)")
	s.StringVar(&f.key, "tls-key", "", "its key, a PEM `FILE`")
	return cmd
}

// serving is a running edge.
type serving struct {
	*serveFlags
	ui    *ui
	store *creds.Store
	outer *tls.Config
	joins *net.UnixListener
	log   *event.Log
	edge  *edge.Edge
}

func (f *serveFlags) serve(cmd *cobra.Command) error {
	if f.listen == "" {
		return usageError{hint(errors.New("nothing to serve: --tunnel-listen is missing"), "weir serve --tunnel-listen :7443")}
	}
	s := &serving{serveFlags: f, ui: newUI(os.Stderr)}
	s.ui.color = s.ui.color && !f.noColor
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer signal.Stop(signals)
	defer s.close()
	if err := s.open(cmd); err != nil {
		return err
	}
	if err := s.announce(cmd); err != nil {
		return err
	}
	return s.conclude(cmd, s.run(signals))
}

// open opens everything, and then locks the process down: it has the keys, and strangers talk to it.
func (s *serving) open(cmd *cobra.Command) (err error) {
	limitProcessors()
	if s.store, err = openKeys(s.keys, true); err != nil {
		return err
	}
	if err := s.openOuter(); err != nil {
		return err
	}
	udp, tcp, err := listenTunnel(s.listen)
	if err != nil {
		return err
	}
	closeSockets := func() { udp.Close(); tcp.Close() }
	dirs, err := s.openFiles()
	if err == nil {
		_, err = lockdown.Edge(dirs...)
	}
	if err != nil {
		closeSockets()
		return err
	}
	book := &edgeBook{log: s.log, ui: s.ui}
	if s.json {
		book.ui, book.lines = nil, cmd.OutOrStdout()
	}
	if s.edge, err = edge.New(edge.Config{UDP: udp, TCP: tcp, Store: s.store, Outer: s.outer, Changed: book.changed, Log: newLogger(os.Stderr, s.logLevel)}); err != nil {
		closeSockets()
		return err
	}
	return nil
}

// listenTunnel opens the edge's sockets.
func listenTunnel(addr string) (*net.UDPConn, net.Listener, error) {
	udp, tcp, err := edge.Listen(addr)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, nil, hint(err, "another port, or end what has this one: ss -tulpn")
	case errors.Is(err, syscall.EACCES):
		return nil, nil, hint(err, "a port above 1023, or: sudo sysctl -w net.ipv4.ip_unprivileged_port_start=443")
	}
	return udp, tcp, err
}

// openOuter reads the certificate for WebSocket.
func (s *serving) openOuter() error {
	if s.cert == "" && s.key == "" {
		return nil
	}
	pair, err := tls.LoadX509KeyPair(s.cert, s.key)
	if err != nil {
		return hint(fmt.Errorf("read certificate for WebSocket: %w", err), "--tls-cert FILE --tls-key FILE, both in PEM")
	}
	s.outer = &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{pair}}
	return nil
}

// openFiles opens the socket for launchers and the event log, and returns the directories in which the edge goes on to write.
func (s *serving) openFiles() (dirs []string, err error) {
	if s.socket == "" {
		dir, err := runtimeDir()
		if err != nil {
			return nil, err
		}
		s.socket = filepath.Join(dir, edgeSocket)
	}
	if s.events == "" {
		dir, err := stateDir()
		if err != nil {
			return nil, err
		}
		s.events = filepath.Join(dir, "events.jsonl")
	}
	keys, err := keysDir(s.keys)
	if err != nil {
		return nil, err
	}
	for _, path := range []*string{&s.socket, &s.events} {
		if *path, err = filepath.Abs(*path); err != nil {
			return nil, err
		}
	}
	if s.joins, err = listenJoins(s.socket); err != nil {
		return nil, err
	}
	if s.log, err = event.OpenFile(s.events, event.Limits{}); err != nil {
		return nil, err
	}
	return []string{keys, filepath.Dir(s.socket), filepath.Dir(s.events)}, nil
}

// announce says what to do next.
func (s *serving) announce(cmd *cobra.Command) error {
	at := s.edge.Addr()
	if s.json {
		return s.line(cmd, map[string]any{"event": "listening", "time": time.Now().UTC(), "address": at.String(), "socket": s.socket})
	}
	s.ui.sayf("listening on port %d, UDP and TCP; sandboxes find it at %s", at.Port(), s.socket)
	clients, err := s.store.Clients()
	if err != nil {
		return err
	}
	if len(clients) == 0 {
		s.ui.sayf("nobody is enrolled yet; a token for one machine: (umask 077; weir keys token%s > token)", flagIf("--keys", s.keys))
	}
	s.ui.sayf("on the user's machine: weir connect --tunnel https://%s%s", publicAddress(s.listen, at.Port()), flagIf("--token-file", map[bool]string{true: "token"}[len(clients) == 0]))
	s.ui.sayf("here: weir run --route tunnel -- CMD ARG...")
	return nil
}

// flagIf is " FLAG VALUE" where there is a value.
func flagIf(flag, value string) string {
	if value == "" {
		return ""
	}
	return " " + flag + " " + value
}

// publicAddress is the address to tell people of: HOST where nobody knows the host.
func publicAddress(listen string, port uint16) string {
	host, _, err := net.SplitHostPort(listen)
	if ip := net.ParseIP(host); err != nil || host == "" || ip != nil && ip.IsUnspecified() {
		host = "HOST"
	}
	return net.JoinHostPort(host, fmt.Sprint(port))
}

// run serves until a signal comes, and then lets what is open end.
func (s *serving) run(signals <-chan os.Signal) *joins {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	j := newJoins(s.edge)
	taking := make(chan struct{})
	go func() {
		defer close(taking)
		j.serve(ctx, s.joins)
	}()
	<-signals
	if !s.json {
		s.ui.sayf("ending: waiting for open flows; once more to end at once")
	}
	s.joins.Close()
	<-taking
	draining, stop := context.WithCancel(ctx)
	go func() {
		select {
		case <-signals:
		case <-draining.Done():
		}
		stop()
	}()
	s.edge.Drain(draining, reconnectAfter)
	stop()
	cancel()
	j.work.Wait()
	return j
}

// conclude says what was carried and what was refused.
func (s *serving) conclude(cmd *cobra.Command, j *joins) error {
	if !s.json {
		return nil
	}
	counters := s.edge.Counters().Values()
	maps.Copy(counters, j.counters.Values())
	return s.line(cmd, map[string]any{"event": "ended", "time": time.Now().UTC(), "counters": counters})
}

// line prints one line for programs.
func (s *serving) line(cmd *cobra.Command, v map[string]any) error {
	b, err := json.Marshal(v)
	if err == nil {
		_, err = cmd.OutOrStdout().Write(append(b, '\n'))
	}
	return err
}

// reconnectAfter is when clients may come again to an edge that ends: it may be a new one that takes its place.
const reconnectAfter = time.Second

func (s *serving) close() {
	if s.edge != nil {
		s.edge.Close()
	}
	if s.joins != nil {
		s.joins.Close()
	}
	if s.log != nil {
		s.log.Close()
	}
}
