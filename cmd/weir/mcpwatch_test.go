//go:build linux && !client

package main

import (
	"bytes"
	"strings"
	"testing"
)

func TestMCPWatch(t *testing.T) {
	const request = `{"jsonrpc":"2.0","id":7,"method":"initialize","params":{}}` + "\n"
	const answer = `{"jsonrpc":"2.0","id":7,"result":{"protocolVersion":"2025-06-18"}}` + "\n"
	const goesOn = `{"jsonrpc":"2.0","method":"notifications/initialized"}` + "\n"
	long := `{"jsonrpc":"2.0","id":8,"method":"tools/call","params":"` + strings.Repeat("x", maxMCPLine) + `"}` + "\n"
	for _, c := range []struct {
		name    string
		in, out string
		want    int
	}{
		{"an answer that only the client understands", request + goesOn, `{"id":7.0,"result":{}}` + "\n", 1},
		{"a client that goes on in a batch", request + "[" + strings.TrimSpace(goesOn) + "]\n", "{}\n", 1},
		{"a client that goes on at length", request + long, long, 1},
		{"a client that does not wait", request + goesOn, "\n", 0},
		{"a client that goes on after the answer", request + goesOn, answer, 1},
		{"a client that waits", request + `{"jsonrpc":"2.0","id":8,"method":"ping"}` + "\n\n" + `{"jsonrpc":"2.0","id":1,"result":{}}` + "\n", "", 0},
		{"a client of another kind", goesOn + long, "", 0},
		{"request and answer", request, answer, 1},
		{"only once", request + request, answer + answer, 1},
		{"answer without request", "", answer, 0},
		{"another id", request, `{"id":8,"result":{}}` + "\n", 0},
		{"an error is no answer", request, `{"id":7,"error":{"code":-32602,"message":"x"}}` + "\n", 0},
		{"noise before", "hello\n" + request, "npm warn\n" + answer, 1},
		{"a line that never ends", request, string(bytes.Repeat([]byte("x"), maxMCPLine+10)) + "\n" + answer, 1},
		{"an id in a string is another one", request, `{"id":"7","result":{}}` + "\n", 0},
	} {
		for _, size := range []int{1, 7, 1 << 20} {
			t.Run(c.name, func(t *testing.T) {
				ready := 0
				m := &mcpWatch{ready: func() { ready++ }}
				pass := func(text string, see func([]byte)) {
					var dst bytes.Buffer
					l := &lines{dst: &dst, see: see, enough: m.finished}
					for rest := []byte(text); len(rest) > 0; {
						n := min(size, len(rest))
						l.Write(rest[:n])
						rest = rest[n:]
					}
					if dst.String() != text {
						t.Fatal("bytes were changed")
					}
				}
				pass(c.in, m.request)
				pass(c.out, m.response)
				if ready != c.want {
					t.Fatalf("ready %d times, want %d", ready, c.want)
				}
			})
		}
	}
}
