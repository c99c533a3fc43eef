//go:build linux && !client

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/weir-dev/weir/flow/policy"
	"github.com/weir-dev/weir/tunnel"
	"github.com/weir-dev/weir/tunnel/creds"
	"github.com/weir-dev/weir/tunnel/edge"
	"github.com/weir-dev/weir/tunnel/handoff"
)

// "weir serve" has a UNIX socket by which launchers of the same user join. A launcher says whose data path it has, is told
// whether that is taken, and hands the connection to the data path: from then on it is the control socket of package handoff.
// So the edge knows the owner of each flow from a launcher, never from a data path.

// edgeSocket is its name in the runtime directory.
const edgeSocket = "edge.sock"

const (
	// maxJoin bounds the request and its answer, in octets.
	maxJoin = 4 << 10

	// joinTimeout is how long either side waits for the other.
	joinTimeout = 5 * time.Second

	// acceptAgain is how soon a launcher is let in again when there was no room for one more descriptor.
	acceptAgain = 50 * time.Millisecond

	// maxJoined bounds the data paths of one edge, maxJoinedOfOne the connections of one data path: it may not have seen the
	// end of its last one.
	maxJoined      = 1024
	maxJoinedOfOne = 2
)

// joinRequest is what a launcher says; joinAnswer what it is told: nothing where all is well.
type (
	joinRequest struct{ Space, App, Sandbox string }
	joinAnswer  struct {
		Error string `json:",omitempty"`
	}
)

// runtimeDir is where sockets are: the contract's $XDG_RUNTIME_DIR/weir, root's /run/weir.
func runtimeDir() (string, error) {
	if dir := os.Getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "weir"), nil
	}
	if os.Geteuid() == 0 {
		return "/run/weir", nil
	}
	if dir := fmt.Sprintf("/run/user/%d", os.Geteuid()); owned(dir) {
		return filepath.Join(dir, "weir"), nil
	}
	state, err := stateDir()
	return filepath.Join(state, "run"), err
}

// owned reports whether dir is a directory of this user's.
func owned(dir string) bool {
	info, err := os.Stat(dir)
	if err != nil || !info.IsDir() {
		return false
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(st.Uid) == os.Geteuid()
}

// errNoEdge says that no "weir serve" of this user is running.
var errNoEdge = errors.New("no edge is running")

// joinEdge joins the running edge on behalf of a data path, and returns the socket for it.
func joinEdge(path string, who tunnel.Owner) (*os.File, error) {
	c, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Net: "unixpacket", Name: path})
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
		return nil, errNoEdge
	}
	if err != nil {
		return nil, fmt.Errorf("join edge: %w", err)
	}
	defer c.Close()
	if peer, err := peerOf(c); err != nil || !trusted(peer) {
		return nil, errors.Join(fmt.Errorf("join edge: %s is somebody else's", path), err)
	}
	c.SetDeadline(time.Now().Add(joinTimeout))
	if err := sendJSON(c, joinRequest{who.Space, who.App, who.Sandbox}); err != nil {
		return nil, fmt.Errorf("join edge: %w", err)
	}
	var a joinAnswer
	if err := receiveJSON(c, &a); err != nil {
		return nil, fmt.Errorf("join edge: %w", err)
	}
	if a.Error != "" {
		return nil, fmt.Errorf("join edge: %s", a.Error)
	}
	return c.File()
}

// sendJSON and receiveJSON pass one packet.
func sendJSON(c *net.UnixConn, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = c.Write(b)
	return err
}

func receiveJSON(c *net.UnixConn, v any) error {
	b := make([]byte, maxJoin)
	n, err := c.Read(b)
	if err == nil && n == 0 {
		err = io.EOF
	}
	if err != nil {
		return err
	}
	return json.Unmarshal(b[:n], v)
}

// listenJoins opens the socket by which launchers join. One that a dead edge left is replaced, and nothing else.
func listenJoins(path string) (*net.UnixListener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("listen for launchers: %w", err)
	}
	at := &net.UnixAddr{Net: "unixpacket", Name: path}
	ln, err := net.ListenUnix("unixpacket", at)
	if errors.Is(err, syscall.EADDRINUSE) {
		if c, err := net.DialUnix("unixpacket", nil, at); err == nil {
			c.Close()
			return nil, hint(fmt.Errorf("an edge is running already: it has %s", path), "weir run --route tunnel uses it; end it first, or --socket PATH for another one")
		} else if !errors.Is(err, syscall.ECONNREFUSED) { // busy, or another program's
			return nil, fmt.Errorf("listen for launchers: %s is in use: %w", path, err)
		}
		if info, err := os.Lstat(path); err != nil || info.Mode().Type() != fs.ModeSocket { // a file refuses connections, too
			return nil, errors.Join(fmt.Errorf("listen for launchers: %s is there, and is no socket", path), err)
		}
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("listen for launchers: %w", err)
		}
		ln, err = net.ListenUnix("unixpacket", at)
	}
	if err != nil {
		return nil, fmt.Errorf("listen for launchers: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		ln.Close()
		return nil, fmt.Errorf("listen for launchers: %w", err)
	}
	return ln, nil
}

// joins lets data paths join an edge.
type joins struct {
	edge     *edge.Edge
	counters handoff.Counters
	places   chan struct{}
	work     sync.WaitGroup

	mu   sync.Mutex
	held map[tunnel.Owner]int // connections of each sandbox
}

func newJoins(e *edge.Edge) *joins {
	return &joins{edge: e, places: make(chan struct{}, maxJoined), held: map[tunnel.Owner]int{}}
}

// hold counts one more connection of a sandbox, unless it has too many.
func (j *joins) hold(who tunnel.Owner) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.held[who] >= maxJoinedOfOne {
		return false
	}
	j.held[who]++
	return true
}

func (j *joins) letGo(who tunnel.Owner) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.held[who]--; j.held[who] == 0 {
		delete(j.held, who)
	}
}

// serve takes launchers until ln is closed. What it began goes on until ctx is done; wait waits for it.
func (j *joins) serve(ctx context.Context, ln *net.UnixListener) {
	for {
		c, err := ln.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // no descriptor is left: flows have them, and give them back
			time.Sleep(acceptAgain)
			continue
		}
		select {
		case j.places <- struct{}{}:
		default:
			sendJSON(c, joinAnswer{"too many sandboxes"})
			c.Close()
			continue
		}
		j.work.Go(func() {
			defer func() { <-j.places }()
			who, err := joined(c)
			if err == nil && !j.hold(who) {
				err = errors.New("this sandbox has joined already")
			}
			if err != nil {
				sendJSON(c, joinAnswer{err.Error()})
				c.Close()
				return
			}
			defer j.letGo(who)
			c.SetDeadline(time.Now().Add(joinTimeout))
			if sendJSON(c, joinAnswer{}) != nil {
				c.Close()
				return
			}
			c.SetDeadline(time.Time{})
			j.carry(ctx, c, who)
		})
	}
}

// carry serves one data path.
func (j *joins) carry(ctx context.Context, c *net.UnixConn, who tunnel.Owner) error {
	return handoff.Serve(ctx, c, who, j.edge.Sandbox(who), handoff.Options{Counters: &j.counters})
}

// joined reads a launcher's request.
func joined(c *net.UnixConn) (who tunnel.Owner, err error) {
	peer, err := peerOf(c)
	if err != nil {
		return who, err
	}
	if !trusted(peer) {
		return who, errors.New("this edge is another user's")
	}
	c.SetDeadline(time.Now().Add(joinTimeout))
	var r joinRequest
	if err := receiveJSON(c, &r); err != nil {
		return who, err
	}
	if err := creds.CheckName(r.Space); err != nil {
		return who, fmt.Errorf("space: %w", err)
	}
	if !policy.AppName(r.App) || len(r.Sandbox) > 64 {
		return who, errors.New("whose data path is this?")
	}
	return tunnel.Owner{Space: r.Space, App: r.App, Sandbox: r.Sandbox}, nil
}
