//go:build linux

package rules

import (
	"errors"
	"testing"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"github.com/mdlayher/netlink/nltest"
	"golang.org/x/sys/unix"
)

// lacking is a door on a kernel that answers rulesets with these errors, one after the other; 0 is none.
func lacking(answers ...unix.Errno) (Inside, *int) {
	asked := 0
	c := door
	c.connect = func() (*nftables.Conn, error) {
		return nftables.New(nftables.WithTestDial(func(requests []netlink.Message) ([]netlink.Message, error) {
			if len(requests) == 0 {
				return nil, nil
			}
			errno := answers[min(asked, len(answers)-1)]
			asked++
			if errno != 0 {
				return nltest.Error(int(errno), requests[:1])
			}
			var acks []netlink.Message
			for _, r := range requests {
				if r.Header.Flags&netlink.Acknowledge != 0 {
					ack, _ := nltest.Error(0, []netlink.Message{r})
					acks = append(acks, ack...)
				}
			}
			return acks, nil
		}))
	}
	return c, &asked
}

// TestKernelWithoutTPROXY: a kernel that does not know an expression, or may not load its module, is an error that says at
// what; there is never half a ruleset, because it is one transaction.
func TestKernelWithoutTPROXY(t *testing.T) {
	for _, errno := range []unix.Errno{unix.ENOENT, unix.EOPNOTSUPP, unix.EPERM, unix.EPROTONOSUPPORT} {
		c, asked := lacking(errno)
		if err := c.install(); !errors.Is(err, errno) || *asked != 1 {
			t.Errorf("%v: %v after %d transactions", errno, err, *asked)
		}
	}
}

// TestKernelWithoutQueue: a kernel that knows no way to hold a SYN is one without; one that refuses is an error.
func TestKernelWithoutQueue(t *testing.T) {
	ways := len(door.holdLines())
	for _, c := range []struct {
		name    string
		answers []unix.Errno
		held    bool
		asked   int
		err     error
	}{
		{"the best way", []unix.Errno{0}, true, 1, nil},
		{"the second way", []unix.Errno{unix.ENOENT, 0}, true, 2, nil},
		{"none", []unix.Errno{unix.ENOENT}, false, ways, nil},
		{"none, said otherwise", []unix.Errno{unix.EOPNOTSUPP}, false, ways, nil},
		{"not permitted", []unix.Errno{unix.EPERM}, false, 1, unix.EPERM},
	} {
		in, asked := lacking(c.answers...)
		held, err := in.hold()
		if held != c.held || *asked != c.asked || !errors.Is(err, c.err) {
			t.Errorf("%s: %v, %v after %d tries; want %v, %v after %d", c.name, held, err, *asked, c.held, c.err, c.asked)
		}
	}
}
