package capture

import (
	"encoding/binary"
	"fmt"
	"io"
	"time"
)

// pcap is the classic format (draft-ietf-opsawg-pcap): a file header, then records of one link type.
type pcap struct {
	order  binary.ByteOrder
	unit   time.Duration // of the fraction in a time stamp
	header int           // length of a record header in octets
	link   uint32
}

// pcapMagic returns what the first four octets say about byte order, time unit and record header, nil if they are not
// a pcap's.
func pcapMagic(m [4]byte) *pcap {
	for _, order := range []binary.ByteOrder{binary.LittleEndian, binary.BigEndian} {
		switch order.Uint32(m[:]) {
		case 0xa1b2c3d4:
			return &pcap{order: order, unit: time.Microsecond, header: 16}
		case 0xa1b23c4d:
			return &pcap{order: order, unit: time.Nanosecond, header: 16}
		case 0xa1b2cd34: // "modified" pcap of old Linux distributions: eight more octets per record
			return &pcap{order: order, unit: time.Microsecond, header: 24}
		}
	}
	return nil
}

func openPcap(f *file, p *pcap) (*pcap, error) {
	b, err := f.take(24)
	if err != nil {
		return nil, fmt.Errorf("read file header: %w", err)
	}
	if major := p.order.Uint16(b[4:]); major != 2 {
		return nil, fmt.Errorf("read file header: pcap version %d.%d is not known", major, p.order.Uint16(b[6:]))
	}
	p.link = p.order.Uint32(b[20:]) & 0xffff // above are the length of a frame check sequence and reserved bits
	return p, nil
}

func (p *pcap) next(f *file, fr *frame) error {
	if f.atEnd() {
		return io.EOF
	}
	f.mark = f.offset
	h, err := f.take(p.header)
	if err != nil {
		return err
	}
	sec, frac, captured := p.order.Uint32(h), p.order.Uint32(h[4:]), p.order.Uint32(h[8:])
	if captured > MaxRecord {
		return fmt.Errorf("a record of %d octets, at most %d are allowed", captured, MaxRecord)
	}
	fr.at = time.Unix(int64(sec), int64(frac)*int64(p.unit)).UTC()
	fr.link, fr.order = p.link, p.order
	fr.data, err = f.take(int(captured))
	return err
}
