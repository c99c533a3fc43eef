package event

import (
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/windows"
)

// descriptor is a pipe, terminal or file that somebody gave us.
type descriptor struct{ f *os.File }

// openDescriptor duplicates a handle.
func openDescriptor(fd int) (*descriptor, error) {
	self := windows.CurrentProcess()
	var own windows.Handle
	if err := windows.DuplicateHandle(self, windows.Handle(fd), self, &own, 0, false, windows.DUPLICATE_SAME_ACCESS); err != nil {
		return nil, fmt.Errorf("duplicate: %w", err)
	}
	return &descriptor{os.NewFile(uintptr(own), fmt.Sprintf("fd:%d", fd))}, nil
}

// expire does what it can: consoles and anonymous pipes have no deadlines here.
func (d *descriptor) expire(t time.Time) { _ = d.f.SetWriteDeadline(t) }

func (d *descriptor) close() error { return d.f.Close() }

// write writes each line with one call.
func (d *descriptor) write(b []byte, ends []int) (int, error) {
	start := 0
	for i, end := range ends {
		if _, err := d.f.Write(b[start:end]); err != nil {
			return i, err
		}
		start = end
	}
	return len(ends), nil
}
