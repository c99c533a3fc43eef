package capture

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"time"
)

// Block types of draft-ietf-opsawg-pcapng section 4 that are read; all others are passed over.
const (
	blockSection   = 0x0a0d0d0a
	blockInterface = 1
	blockPacket    = 2 // obsolete
	blockSimple    = 3
	blockEnhanced  = 6
)

// Bounds of a pcapng file. Real blocks are far smaller; a larger length means that the file is damaged.
const (
	maxBlock         = 16 << 20 // octets
	maxInterfaces    = 4096     // per section
	maxInterfaceBody = 64 << 10 // octets of an interface block whose options are looked at
)

// pcapng is the block format. Its state is that of the section being read.
type pcapng struct {
	order      binary.ByteOrder
	interfaces []ngInterface
}

type ngInterface struct {
	link   uint32
	snap   uint32 // 0 for no limit
	units  uint64 // time stamp units per second
	offset int64  // seconds added to time stamps
}

func (p *pcapng) next(f *file, fr *frame) error {
	for {
		if f.atEnd() {
			return io.EOF
		}
		done, err := p.block(f, fr)
		if done || err != nil {
			return err
		}
	}
}

// block reads one block and reports whether it was a packet.
func (p *pcapng) block(f *file, fr *frame) (packet bool, err error) {
	f.mark = f.offset
	h, err := f.take(8)
	if err != nil {
		return false, err
	}
	head := [8]byte(h)
	if binary.BigEndian.Uint32(head[:]) == blockSection {
		return false, p.section(f, head)
	}
	if p.order == nil {
		return false, errors.New("a block before the first section header")
	}
	kind, total := p.order.Uint32(head[:]), p.order.Uint32(head[4:])
	body, err := bodyLength(total)
	if err != nil {
		return false, err
	}
	start := f.offset
	switch kind {
	case blockInterface:
		err = p.iface(f, body)
	case blockEnhanced:
		packet, err = true, p.enhanced(f, fr, body)
	case blockSimple:
		packet, err = true, p.simple(f, fr, body)
	case blockPacket:
		packet, err = true, p.packet(f, fr, body)
	}
	if err != nil {
		return false, err
	}
	// The packet stays valid: the rest of the block is passed over, not read into the buffer.
	return packet, p.finish(f, total, body-int(f.offset-start))
}

// finish passes over what remains of a block's body and checks the length that is repeated behind it.
func (p *pcapng) finish(f *file, total uint32, rest int) error {
	if err := f.skip(rest); err != nil {
		return err
	}
	tail, err := f.r.Peek(4)
	if err != nil {
		return errTruncated
	}
	if again := p.order.Uint32(tail); again != total {
		return fmt.Errorf("block length %d is repeated as %d", total, again)
	}
	return f.skip(4)
}

// bodyLength is what lies between the two lengths of a block. Lengths that are no multiple of four occur in the wild and
// mean the next multiple.
func bodyLength(total uint32) (int, error) {
	if total < 12 || total > maxBlock {
		return 0, fmt.Errorf("a block of %d octets, from 12 to %d are allowed", total, maxBlock)
	}
	return int(total+3)&^3 - 12, nil
}

// section reads a section header (section 4.1): the byte order of what follows. Interfaces of the section before are gone.
func (p *pcapng) section(f *file, head [8]byte) error {
	b, err := f.take(8)
	if err != nil {
		return err
	}
	switch {
	case binary.LittleEndian.Uint32(b) == 0x1a2b3c4d:
		p.order = binary.LittleEndian
	case binary.BigEndian.Uint32(b) == 0x1a2b3c4d:
		p.order = binary.BigEndian
	default:
		return fmt.Errorf("section header has no byte order (% x)", b[:4])
	}
	if major := p.order.Uint16(b[4:]); major != 1 {
		return fmt.Errorf("pcapng version %d.%d is not known", major, p.order.Uint16(b[6:]))
	}
	total := p.order.Uint32(head[4:])
	body, err := bodyLength(total)
	if err != nil {
		return err
	}
	if body < 16 {
		return fmt.Errorf("section header of %d octets is too short", total)
	}
	p.interfaces = p.interfaces[:0]
	return p.finish(f, total, body-8)
}

// iface reads an interface description (section 4.2).
func (p *pcapng) iface(f *file, body int) error {
	if body < 8 {
		return errors.New("interface block is too short")
	}
	if len(p.interfaces) == maxInterfaces {
		return fmt.Errorf("more than %d interfaces", maxInterfaces)
	}
	b, err := f.take(min(body, maxInterfaceBody))
	if err != nil {
		return err
	}
	i := ngInterface{link: uint32(p.order.Uint16(b)), snap: p.order.Uint32(b[4:]), units: 1e6}
	for b = b[8:]; len(b) >= 4; {
		code, n := p.order.Uint16(b), int(p.order.Uint16(b[2:]))
		if b = b[4:]; code == 0 || n > len(b) {
			break
		}
		switch {
		case code == 9 && n == 1: // if_tsresol
			i.units = resolution(b[0])
		case code == 14 && n == 8: // if_tsoffset
			i.offset = int64(p.order.Uint64(b))
		}
		b = b[min((n+3)&^3, len(b)):]
	}
	p.interfaces = append(p.interfaces, i)
	return nil
}

// resolution turns if_tsresol into units per second. What does not fit is read as microseconds.
func resolution(v byte) uint64 {
	n := v & 0x7f
	switch {
	case v&0x80 != 0 && n < 64:
		return 1 << n
	case v&0x80 == 0 && n < 20:
		u := uint64(1)
		for range n {
			u *= 10
		}
		return u
	}
	return 1e6
}

// enhanced reads an enhanced packet block (section 4.3).
func (p *pcapng) enhanced(f *file, fr *frame, body int) error {
	if body < 20 {
		return errors.New("packet block is too short")
	}
	b, err := f.take(20)
	if err != nil {
		return err
	}
	stamp := uint64(p.order.Uint32(b[4:]))<<32 | uint64(p.order.Uint32(b[8:]))
	return p.data(f, fr, p.order.Uint32(b), stamp, p.order.Uint32(b[12:]), body-20)
}

// packet reads an obsolete packet block (appendix A).
func (p *pcapng) packet(f *file, fr *frame, body int) error {
	if body < 20 {
		return errors.New("packet block is too short")
	}
	b, err := f.take(20)
	if err != nil {
		return err
	}
	stamp := uint64(p.order.Uint32(b[4:]))<<32 | uint64(p.order.Uint32(b[8:]))
	return p.data(f, fr, uint32(p.order.Uint16(b)), stamp, p.order.Uint32(b[12:]), body-20)
}

// simple reads a simple packet block (section 4.4): first interface, no time, length cut at the snap length.
func (p *pcapng) simple(f *file, fr *frame, body int) error {
	if body < 4 || len(p.interfaces) == 0 {
		return errors.New("simple packet block is too short or without an interface")
	}
	b, err := f.take(4)
	if err != nil {
		return err
	}
	captured := min(p.order.Uint32(b), uint32(body-4))
	if snap := p.interfaces[0].snap; snap != 0 {
		captured = min(captured, snap)
	}
	return p.data(f, fr, 0, 0, captured, body-4)
}

func (p *pcapng) data(f *file, fr *frame, id uint32, stamp uint64, captured uint32, room int) (err error) {
	if int64(id) >= int64(len(p.interfaces)) {
		return fmt.Errorf("a packet of interface %d, which the file does not describe", id)
	}
	if int64(captured) > int64(room) || captured > MaxRecord {
		return fmt.Errorf("a packet of %d octets in a block with room for %d, at most %d are allowed", captured, room, MaxRecord)
	}
	i := &p.interfaces[id]
	fr.link, fr.order, fr.at = i.link, p.order, i.time(stamp)
	fr.data, err = f.take(int(captured))
	return err
}

func (i *ngInterface) time(stamp uint64) time.Time {
	hi, lo := bits.Mul64(stamp%i.units, 1e9)
	nsec, _ := bits.Div64(hi, lo, i.units)
	return time.Unix(int64(stamp/i.units)+i.offset, int64(nsec)).UTC()
}
