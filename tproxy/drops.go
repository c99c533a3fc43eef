//go:build linux

package tproxy

import (
	"errors"
	"io"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// dropLog counts what the rules drop, by what the kernel says of it over NFLOG.
type dropLog struct {
	source   io.Reader // the socket
	counters *counters
}

// Of linux/netfilter/nfnetlink_log.h.
const (
	nfulnlMsgPacket = 0
	nfulaPrefix     = 10
)

// readAll counts until the socket is closed.
func (l *dropLog) readAll() {
	b := make([]byte, 64<<10)
	for {
		n, err := l.source.Read(b)
		switch {
		case errors.Is(err, syscall.ENOBUFS):
			l.counters.add(dropLogLost)
		case err != nil:
			return
		default:
			for _, name := range dropNames(b[:n]) {
				l.counters.add(name)
			}
		}
	}
}

// dropNames returns the log prefix of each packet message in b.
func dropNames(b []byte) (names []string) {
	const generic = 4
	for m := range netlinkMessages(b) {
		if m.kind != unix.NFNL_SUBSYS_ULOG<<8|nfulnlMsgPacket || len(m.body) < generic {
			continue
		}
		for a := range netlinkAttributes(m.body[generic:]) {
			if a.kind != nfulaPrefix {
				continue
			}
			if text, _, _ := strings.Cut(string(a.body), "\x00"); text != "" {
				names = append(names, text)
			}
		}
	}
	return names
}
