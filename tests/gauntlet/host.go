//go:build linux

package gauntlet

import (
	"bufio"
	"bytes"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
)

// listenAbstract opens a UNIX socket of the host under an abstract name, Args["name"], and hears what it is told.
func listenAbstract(s *Stage, network string) error {
	s.Args["name"] = "gauntlet-" + s.Token
	return s.listenUnix(network, "@"+s.Args["name"])
}

// listenUnix opens a UNIX socket of the host. Its path is in Args["socket"].
func (s *Stage) listenUnix(network, path string) error {
	s.Args["socket"] = path
	if network == "unixgram" {
		c, err := net.ListenUnixgram(network, &net.UnixAddr{Name: path, Net: network})
		if err != nil {
			return err
		}
		s.Defer(func() { c.Close() })
		go s.World.echo(c)
		return nil
	}
	ln, err := net.Listen(network, path)
	if err != nil {
		return err
	}
	s.Defer(func() { ln.Close() })
	go s.World.answerAll(ln)
	return nil
}

// answerAll serves a listener of the host until it is closed.
func (w *World) answerAll(ln net.Listener) {
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		go w.answer(c)
	}
}

// lastWord returns the greatest number that anybody was told behind the token.
func (w *World) lastWord(token string) (last int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, b := range w.heard {
		_, text, found := bytes.Cut(b.Bytes(), []byte(token+" "))
		for found {
			var word []byte
			if word, text, found = bytes.Cut(text, []byte(token+" ")); len(word) > 0 {
				n, _ := strconv.ParseInt(strings.Fields(string(word) + " 0")[0], 10, 64)
				last = max(last, n)
			}
		}
	}
	return last
}

// hasLine reports whether a line of the file begins with the token.
func hasLine(s *Stage, path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	for sc := bufio.NewScanner(f); sc.Scan(); {
		if strings.HasPrefix(sc.Text(), s.Token) {
			return true
		}
	}
	return false
}

// withNeighbour is a command that starts another one in its own process group first, as a shell does with a pipeline, and
// waits until that has made the file "ready" in its directory.
func withNeighbour(script, dir string, command []string) []string {
	start := fmt.Sprintf("cd %q; (%s) </dev/null >/dev/null 2>&1 & while [ ! -e %q/ready ]; do sleep 0.01; done; exec \"$@\"", dir, script, dir)
	return append([]string{"/bin/sh", "-c", start, "sh"}, command...)
}
