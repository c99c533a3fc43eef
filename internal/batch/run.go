//go:build linux

package batch

// MaxSize is more than any UDP payload has without jumbograms (RFC 768, RFC 8200).
const MaxSize = 65535

// Limits bound what may be sent as the segments of one message: the size of a segment, the sum of all, and their number.
type Limits struct{ Segment, Total, Count int }

// Run returns how many of the first datagrams in b can be the segments of one message, at least 1, and their total size:
// they have one size, but for the last, which may be shorter and is not empty.
func Run(b [][]byte, l Limits) (n, total int) {
	size := len(b[0])
	n, total = 1, size
	if size == 0 || size > l.Segment {
		return n, total
	}
	for n < len(b) && n < l.Count {
		next := len(b[n])
		if next == 0 || next > size || total+next > l.Total {
			break
		}
		n, total = n+1, total+next
		if next < size {
			break
		}
	}
	return n, total
}
