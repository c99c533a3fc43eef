//go:build linux && !client

package main

import (
	"errors"
	"os"
	"testing"
	"time"
)

// A data path that does not answer does not hold its launcher.
func TestControlAskStuck(t *testing.T) {
	local, remote, err := newControlPair(maxMessage)
	if err != nil {
		t.Fatal(err)
	}
	defer local.Close()
	defer remote.Close()
	if err := local.ask(order{Finish: true}, &dataPathReport{}, time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("ask: %v", err)
	}
}

func TestControlAsk(t *testing.T) {
	local, remote, err := newControlPair(maxMessage)
	if err != nil {
		t.Fatal(err)
	}
	defer local.Close()
	other, err := openControl(remote, maxMessage)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	go func() {
		var o order
		if _, err := other.receive(&o); err == nil {
			other.send(dataPathReport{Denials: uint64(o.Status)}, os.Stdin)
		}
	}()
	var rep dataPathReport
	if err := local.ask(order{Finish: true, Status: 7}, &rep, patience); err != nil || rep.Denials != 7 {
		t.Errorf("report %+v, %v", rep, err)
	}
}
