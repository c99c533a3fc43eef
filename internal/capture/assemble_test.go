package capture

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// drain returns all octets that are in order.
func (a *assembler) drain() string {
	var s strings.Builder
	for b := a.pop(); b != nil; b = a.pop() {
		s.Write(b)
	}
	return s.String()
}

func TestAssembler(t *testing.T) {
	at := uint32(0xfffffffe) // of the first octet: the numbers wrap
	tests := []struct {
		name string
		feed func(a *assembler)
		want string
	}{
		{"in order", func(a *assembler) { a.place(at); a.add(at, []byte("abc")); a.add(at+3, []byte("def")) }, "abcdef"},
		{"out of order", func(a *assembler) { a.place(at); a.add(at+3, []byte("def")); a.add(at, []byte("abc")) }, "abcdef"},
		{"again", func(a *assembler) { a.place(at); a.add(at, []byte("abc")); a.add(at, []byte("abc")) }, "abc"},
		{"hole", func(a *assembler) { a.place(at); a.add(at, []byte("abc")); a.add(at+4, []byte("ef")) }, "abc"},
		{"first copy wins, delivered", func(a *assembler) { a.place(at); a.add(at, []byte("abc")); a.add(at+1, []byte("XYZ")) }, "abcZ"},
		{"first copy wins, kept", func(a *assembler) { a.place(at); a.add(at+2, []byte("cd")); a.add(at, []byte("abXYef")) }, "abcdef"},
		{"first copy wins, inside", func(a *assembler) { a.place(at); a.add(at, []byte("abcdef")); a.add(at+2, []byte("XY")) }, "abcdef"},
		{"first copy wins, across two", func(a *assembler) {
			a.place(at)
			a.add(at+1, []byte("b"))
			a.add(at+3, []byte("d"))
			a.add(at, []byte("aXcYe"))
		}, "abcde"},
		{"before the start", func(a *assembler) { a.place(at); a.add(at-5, []byte("12345ab")); a.add(at-5, []byte("123")) }, "ab"},
		{"keep-alive", func(a *assembler) {
			a.place(at)
			a.add(at, []byte("ab"))
			a.add(at+1, []byte{0})
			a.add(at+2, []byte("cd"))
		}, "abcd"},
		{"placed late", func(a *assembler) { a.add(at+2, []byte("cd")); a.add(at-1, []byte("0ab")); a.place(at) }, "abcd"},
		{"placed at the lowest", func(a *assembler) { a.add(at+2, []byte("cd")); a.add(at, []byte("ab")); a.placeAtLowest() }, "abcd"},
		{"too far ahead", func(a *assembler) { a.place(at); a.add(at+maxAhead, []byte("x")); a.add(at, []byte("abc")) }, "abc"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var a assembler
			tt.feed(&a)
			var got string
			got += a.drain()
			if got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
			a.release()
			if a.cost != 0 {
				t.Errorf("%d octets are still accounted for", a.cost)
			}
		})
	}
}

// TestAssemblerAnyOrder cuts a stream at random, doubles and shuffles the pieces: the stream must come out the same.
func TestAssemblerAnyOrder(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	stream := make([]byte, 20000)
	for i := range stream {
		stream[i] = byte(r.Uint32())
	}
	type piece struct{ from, to int }
	for range 50 {
		start := r.Uint32()
		var pieces []piece
		for at := 0; at < len(stream); {
			end := min(at+1+r.IntN(1500), len(stream))
			pieces = append(pieces, piece{at, end})
			if r.IntN(4) == 0 {
				pieces = append(pieces, piece{max(0, at-r.IntN(100)), min(end+r.IntN(100), len(stream))})
			}
			at = end
		}
		r.Shuffle(len(pieces), func(i, j int) { pieces[i], pieces[j] = pieces[j], pieces[i] })
		var a assembler
		var got []byte
		place := r.IntN(len(pieces))
		for i, p := range pieces {
			if i == place {
				a.place(start)
			}
			a.add(start+uint32(p.from), stream[p.from:p.to])
			got = append(got, a.drain()...)
		}
		if !bytes.Equal(got, stream) {
			t.Fatalf("%d octets came out of %d, or others", len(got), len(stream))
		}
		if a.cost != 0 {
			t.Fatalf("%d octets are accounted for when all came out", a.cost)
		}
	}
}

func TestAssemblerBounds(t *testing.T) {
	var a assembler
	a.place(0)
	for i := range uint32(2 * maxChunks) {
		a.add(2*i+1, []byte("x"))
	}
	if len(a.held) != maxChunks || a.cost != maxChunks*(1+chunkCost) {
		t.Errorf("%d pieces are kept at a cost of %d", len(a.held), a.cost)
	}
	// What is in order still goes in, so that the stream does not stand still.
	a.add(0, []byte("y"))
	if got := a.drain(); got != "yx" {
		t.Errorf("%q came out", got)
	}
	a.release()
	a.add(2, slices.Repeat([]byte("y"), 2*maxAhead))
	if n := len(a.drain()); n != maxAhead {
		t.Errorf("%d octets came out of a segment of twice the bound", n)
	}
}
