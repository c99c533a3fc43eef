//go:build linux

package tproxy

import (
	"encoding/binary"
	"errors"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// dropLog counts what the rules drop, by what the kernel says of it over NFLOG.
type dropLog struct {
	file     *os.File
	counters *counters
}

// Of linux/netfilter/nfnetlink_log.h.
const (
	nfulnlMsgPacket = 0
	nfulaPrefix     = 10
	nlaTypeMask     = 0x3fff
)

// readAll counts until the socket is closed.
func (l *dropLog) readAll() {
	b := make([]byte, 64<<10)
	for {
		n, err := l.file.Read(b)
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

// dropNames returns the log prefix of each packet message in b (RFC 3549 section 2.2 has the header). The kernel wrote it,
// and yet nothing of it is believed further than it reaches.
func dropNames(b []byte) (names []string) {
	order := binary.NativeEndian
	const header, generic = unix.SizeofNlMsghdr, 4
	for len(b) >= header {
		size := int(order.Uint32(b))
		if size < header || size > len(b) {
			return names
		}
		kind := order.Uint16(b[4:])
		if kind == unix.NFNL_SUBSYS_ULOG<<8|nfulnlMsgPacket && size >= header+generic {
			if p := logPrefix(b[header+generic : size]); p != "" {
				names = append(names, p)
			}
		}
		b = b[min(align4(size), len(b)):]
	}
	return names
}

// logPrefix finds the prefix among the attributes of a packet message.
func logPrefix(b []byte) string {
	order := binary.NativeEndian
	for len(b) >= unix.SizeofNlAttr {
		size := int(order.Uint16(b))
		if size < unix.SizeofNlAttr || size > len(b) {
			return ""
		}
		if order.Uint16(b[2:])&nlaTypeMask == nfulaPrefix {
			text, _, _ := strings.Cut(string(b[unix.SizeofNlAttr:size]), "\x00")
			return text
		}
		b = b[min(align4(size), len(b)):]
	}
	return ""
}

func align4(n int) int { return (n + 3) &^ 3 }
