package capture

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"
)

// MaxRecord is the longest packet record that is read, in octets: the largest snap length that capture tools use.
const MaxRecord = 256 << 10

// errTruncated says that the file ends inside a record.
var errTruncated = errors.New("file is cut off here")

// frame is one record of a capture file. data is valid until the next one is read.
type frame struct {
	at    time.Time
	link  uint32           // LINKTYPE_ number
	order binary.ByteOrder // of the machine that wrote the file: some link layers use it
	data  []byte           // as captured; the packet may have been longer
}

// file reads the records of a capture in their order.
type file struct {
	r      *bufio.Reader
	offset int64 // octets read so far
	mark   int64 // where the record or block being read began
	record int   // records returned so far
	buf    []byte
	format interface{ next(*file, *frame) error }
}

// openFile looks at the first four octets and picks the format.
func openFile(r io.Reader) (*file, error) {
	f := &file{r: bufio.NewReaderSize(r, 64<<10)}
	magic, err := f.r.Peek(4)
	if err != nil {
		if errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("read file header: file is only %d octets long", len(magic))
		}
		return nil, fmt.Errorf("read file header: %w", err)
	}
	switch m := [4]byte(magic); {
	case m == [4]byte{0x0a, 0x0d, 0x0d, 0x0a}:
		f.format = new(pcapng)
	case pcapMagic(m) != nil:
		f.format, err = openPcap(f, pcapMagic(m))
	case m[0] == 0x1f && m[1] == 0x8b:
		err = errors.New("read file header: the file is compressed with gzip; unpack it first")
	default:
		err = fmt.Errorf("read file header: neither pcap nor pcapng (it begins with % x)", m)
	}
	if err != nil {
		return nil, err
	}
	return f, nil
}

// next reads one record into fr. At the regular end of the file it returns io.EOF; any other error says where it is and
// is final.
func (f *file) next(fr *frame) error {
	err := f.format.next(f, fr)
	switch {
	case err == nil:
		f.record++
		return nil
	case err == io.EOF:
		return err
	}
	return fmt.Errorf("read record %d at octet %d: %w", f.record+1, f.mark, err)
}

// take reads n octets, which are valid until the next call; n must have been compared with a bound.
func (f *file) take(n int) ([]byte, error) {
	if cap(f.buf) < n {
		f.buf = make([]byte, n, max(n, 4<<10))
	}
	b := f.buf[:n]
	got, err := io.ReadFull(f.r, b)
	f.offset += int64(got)
	if err == io.ErrUnexpectedEOF || err == io.EOF && n > 0 {
		err = errTruncated
	}
	return b, err
}

// skip passes over n octets without keeping them.
func (f *file) skip(n int) error {
	got, err := f.r.Discard(n)
	f.offset += int64(got)
	if err == io.EOF {
		err = errTruncated
	}
	return err
}

// atEnd reports whether the file ends here.
func (f *file) atEnd() bool {
	_, err := f.r.Peek(1)
	return err == io.EOF
}
