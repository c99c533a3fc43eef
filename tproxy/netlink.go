//go:build linux

package tproxy

import (
	"encoding/binary"
	"iter"

	"golang.org/x/sys/unix"
)

// The kernel's messages to us (netlink(7)). It is the kernel that wrote them, and yet no length is believed further than
// it reaches.

type netlinkMessage struct {
	kind uint16
	body []byte
}

type netlinkAttribute struct {
	kind uint16
	body []byte
}

const attributeMask = 0x3fff // without NLA_F_NESTED and NLA_F_NET_BYTEORDER

// netlinkMessages yields the messages in b.
func netlinkMessages(b []byte) iter.Seq[netlinkMessage] {
	order := binary.NativeEndian
	return func(yield func(netlinkMessage) bool) {
		for len(b) >= unix.SizeofNlMsghdr {
			size := int(order.Uint32(b))
			if size < unix.SizeofNlMsghdr || size > len(b) {
				return
			}
			if !yield(netlinkMessage{order.Uint16(b[4:]), b[unix.SizeofNlMsghdr:size]}) {
				return
			}
			b = b[min(align4(size), len(b)):]
		}
	}
}

// netlinkAttributes yields the attributes in b.
func netlinkAttributes(b []byte) iter.Seq[netlinkAttribute] {
	order := binary.NativeEndian
	return func(yield func(netlinkAttribute) bool) {
		for len(b) >= unix.SizeofNlAttr {
			size := int(order.Uint16(b))
			if size < unix.SizeofNlAttr || size > len(b) {
				return
			}
			if !yield(netlinkAttribute{order.Uint16(b[2:]) & attributeMask, b[unix.SizeofNlAttr:size]}) {
				return
			}
			b = b[min(align4(size), len(b)):]
		}
	}
}

func align4(n int) int { return (n + 3) &^ 3 }
