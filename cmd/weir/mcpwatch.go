//go:build linux && !client

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"sync"
)

// An app with install rules may reach its package registry only until its server answers MCP `initialize`. To know that
// moment, weir reads along on stdio: CMD gets pipes, and every byte is passed on as it comes, unchanged and unheld.
// Without install rules, on a terminal or with --mcp off, CMD has weir's own descriptors and nothing is read.

// maxMCPLine bounds what is kept of one line of JSON-RPC, in octets. Longer ones pass unread: `initialize` and its answer
// are short.
const maxMCPLine = 256 << 10

// mcpWatch looks for the answer to `initialize` in the two directions of newline-delimited JSON-RPC (MCP, stdio transport).
type mcpWatch struct {
	mu    sync.Mutex
	id    []byte // the id of the initialize request, as it was written; nil before
	goes  bool   // the client went on after its request
	said  bool   // the server wrote a line, whatever is in it
	done  bool
	ready func() // called once, when the request is answered
}

// request is shown each line from the client. A server may word its answer so that the client reads it and we do not (an
// id written otherwise, members twice, a line that is too long), to stay in its installation for ever. But a client that has
// no answer sends nothing besides pings, so whatever else it says after the request ends the installation too, as soon as
// the server has written anything that the client could take for an answer. A script that sends all its lines at once has
// its server installed first.
func (m *mcpWatch) request(line []byte) {
	var msg struct {
		ID     json.RawMessage `json:"id"`
		Method string          `json:"method"`
	}
	err := json.Unmarshal(line, &msg)
	m.mu.Lock()
	asked := m.id != nil
	if err == nil && msg.Method == "initialize" && len(msg.ID) > 0 && !asked {
		m.id = bytes.Clone(msg.ID)
	}
	harmless := err == nil && (msg.Method == "initialize" || msg.Method == "ping" || msg.Method == "")
	m.goes = m.goes || asked && !harmless && len(bytes.TrimSpace(line)) > 0
	over := m.goes && m.said
	m.mu.Unlock()
	if over {
		m.end()
	}
}

// end ends the installation, once.
func (m *mcpWatch) end() {
	m.mu.Lock()
	first := !m.done
	m.done = true
	m.mu.Unlock()
	if first {
		m.ready()
	}
}

// response is shown each line from the server. An error answers too, but does not end the installation.
func (m *mcpWatch) response(line []byte) {
	var msg struct {
		ID     json.RawMessage `json:"id"`
		Result json.RawMessage `json:"result"`
	}
	err := json.Unmarshal(line, &msg)
	m.mu.Lock()
	m.said = m.said || len(bytes.TrimSpace(line)) > 0
	answered := err == nil && len(msg.Result) > 0 && m.id != nil && bytes.Equal(m.id, msg.ID)
	over := answered || m.goes && m.said
	m.mu.Unlock()
	if over {
		m.end()
	}
}

func (m *mcpWatch) finished() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.done
}

// lines is an io.Writer that passes everything on to dst first and shows whole lines to see until it has seen enough.
type lines struct {
	dst     io.Writer
	see     func([]byte)
	enough  func() bool
	partial []byte
	skip    bool // in the rest of a line that was too long
}

// tooLong stands for a line that was not kept. It is no JSON.
var tooLong = []byte("too long")

func (l *lines) Write(b []byte) (int, error) {
	n, err := l.dst.Write(b)
	if err == nil && !l.enough() {
		l.look(b)
	}
	return n, err
}

func (l *lines) look(b []byte) {
	for len(b) > 0 {
		end := bytes.IndexByte(b, '\n')
		if end < 0 {
			if l.skip = l.skip || len(l.partial)+len(b) > maxMCPLine; l.skip {
				l.partial = nil
				return
			}
			l.partial = append(l.partial, b...)
			return
		}
		if !l.skip && len(l.partial)+end <= maxMCPLine {
			l.see(append(l.partial, b[:end]...))
		} else {
			l.see(tooLong)
		}
		l.partial, l.skip, b = l.partial[:0], false, b[end+1:]
	}
}

// watchStdio puts pipes between weir's own stdin and stdout and CMD's, and calls ready when the server has answered. finished
// waits until all that CMD wrote has been passed on; it must be called after CMD has ended.
func watchStdio(ready func()) (stdin, stdout *os.File, finished func(), err error) {
	inR, inW, err := os.Pipe()
	if err != nil {
		return nil, nil, nil, fmt.Errorf("make pipe for stdin: %w", err)
	}
	outR, outW, err := os.Pipe()
	if err != nil {
		inR.Close()
		inW.Close()
		return nil, nil, nil, fmt.Errorf("make pipe for stdout: %w", err)
	}
	m := &mcpWatch{ready: ready}
	go passStdin(inW, m)
	done := make(chan struct{})
	go passStdout(outR, m, done)
	return inR, outW, func() { <-done; outR.Close() }, nil
}

// passStdin ends with weir's stdin or with CMD, whichever is first.
func passStdin(w *os.File, m *mcpWatch) {
	defer w.Close()
	io.Copy(&lines{dst: w, see: m.request, enough: m.finished}, os.Stdin)
}

func passStdout(r *os.File, m *mcpWatch, done chan struct{}) {
	defer close(done)
	io.Copy(&lines{dst: os.Stdout, see: m.response, enough: m.finished}, r)
}
