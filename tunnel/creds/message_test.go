package creds

import (
	"bytes"
	"errors"
	"reflect"
	"testing"
	"time"
)

func exampleRequest() *enrolRequest {
	return &enrolRequest{token: "abcdefghijkl", secret: [secretLen]byte{1, 2, 3}, name: "laptop", request: []byte("request")}
}

// TestMessages: what is written is read, what later versions add is passed over, and the rest is refused.
func TestMessages(t *testing.T) {
	request := exampleRequest()
	b := request.encode()
	later := appendField(b[:len(b):len(b)], 4711, []byte("something new"))
	if got, err := parseRequest(later); err != nil || !reflect.DeepEqual(got, request) {
		t.Errorf("request: %+v, %v", got, err)
	}
	granted := &enrolAnswer{at: time.Unix(1700000000, 0).UTC(), name: "laptop", chain: []byte("chain")}
	if got, err := parseAnswer(granted.encode()); err != nil || !reflect.DeepEqual(got, granted) {
		t.Errorf("answer: %+v, %v", got, err)
	}
	for r := range refusals {
		if r == 0 {
			continue
		}
		refused := &enrolAnswer{at: granted.at, refusal: r}
		if got, err := parseAnswer(refused.encode()); err != nil || got.refusal != r {
			t.Errorf("refusal %d: %+v, %v", r, got, err)
		}
	}
	if got, err := parseAnswer((&enrolAnswer{at: granted.at, refusal: 99}).encode()); err != nil || got.refusal != RefusedInternal {
		t.Errorf("a refusal of a later version is %v, %v", got, err)
	}

	for n := range b { // no beginning of a message is one
		if _, err := parseRequest(b[:n]); err == nil {
			t.Errorf("the first %d of %d octets pass for a request", n, len(b))
		}
	}
	version2 := appendVarintField(nil, fieldVersion, 2)
	if _, err := parseRequest(append(version2, b[3:]...)); !errors.Is(err, errVersion) {
		t.Errorf("version 2: %v", err)
	}
	many := b[:len(b):len(b)]
	for i := range maxFields {
		many = appendField(many, uint64(100+i), nil)
	}
	for name, bad := range map[string][]byte{
		"a field twice":   appendField(b[:len(b):len(b)], fieldName, []byte("other")),
		"too many fields": many,
		"no secret":       appendField(appendVarintField(nil, fieldVersion, 1), fieldToken, []byte("x")),
		"length of 4 GiB": append(appendVarintField(nil, fieldVersion, 1), 2, 0xc0, 0, 0, 1, 0, 0, 0, 0),
		"hostile name":    (&enrolRequest{token: "x", name: "a\x1b[2J", request: []byte("r")}).encode(),
		"long request":    (&enrolRequest{token: "x", name: "a", request: make([]byte, maxRequest+1)}).encode(),
		"long token id":   (&enrolRequest{token: string(make([]byte, maxName+1)), name: "a", request: []byte("r")}).encode(),
	} {
		if _, err := parseRequest(bad); !errors.Is(err, errMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := readMessage(bytes.NewReader(make([]byte, maxMessage+1))); !errors.Is(err, errMalformed) {
		t.Errorf("a message without end: %v", err)
	}
}

func FuzzRequest(f *testing.F) {
	f.Add(exampleRequest().encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := parseRequest(b)
		if err != nil {
			return
		}
		again, err := parseRequest(r.encode())
		if err != nil || !reflect.DeepEqual(again, r) {
			t.Errorf("%+v is read as %+v, %v", r, again, err)
		}
	})
}

func FuzzAnswer(f *testing.F) {
	f.Add((&enrolAnswer{at: time.Unix(1, 0), name: "x", chain: []byte{1}}).encode())
	f.Add((&enrolAnswer{refusal: RefusedUsed}).encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := parseAnswer(b)
		if err != nil {
			return
		}
		again, err := parseAnswer(a.encode())
		if err != nil || again.refusal != a.refusal || !again.at.Equal(a.at) || a.refusal == 0 && !reflect.DeepEqual(again, a) {
			t.Errorf("%+v is read as %+v, %v", a, again, err)
		}
	})
}

// FuzzCertificateRequest: only keys come out of what a stranger sends, and only good ones.
func FuzzCertificateRequest(f *testing.F) {
	_, request, err := newKey()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(request)
	f.Fuzz(func(t *testing.T, b []byte) {
		if key, err := requestKey(b); err == nil {
			if _, err := keyPrint(key); err != nil {
				t.Error(err)
			}
		}
	})
}

// FuzzChain: what an edge gives is a chain for our key, or an error.
func FuzzChain(f *testing.F) {
	key, _, err := newKey()
	if err != nil {
		f.Fatal(err)
	}
	a, err := newAuthority(1, time.Now())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(a.Cert)
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := grantedTo(key, b); err == nil {
			t.Error("a chain that nobody has signed for this key")
		}
	})
}
