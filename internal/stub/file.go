package stub

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"sync"
	"time"
)

// Bounds of reading a file.
const (
	maxFile   = 16 << 20 // octets; lists of blocked names in hosts files have some 5 MiB
	lookAgain = time.Second
)

// file is a file of the machine whose meaning is kept until the file changes. It is looked at again no sooner than after
// lookAgain.
type file[T any] struct {
	mu     sync.Mutex
	looked time.Time
	info   os.FileInfo // of what was read; nil before
	value  *T
}

// get returns the file's meaning and whether it was read again. A file that is away for a moment, as files are that get
// replaced, keeps its last meaning; one that never was there reads as empty.
func (f *file[T]) get(path string, open func(string) (*os.File, error), parse func(io.Reader) T) (value T, changed bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	if f.value != nil && now.Sub(f.looked) < lookAgain {
		return *f.value, false, nil
	}
	f.looked = now
	if changed, err = f.read(path, open, parse); f.value == nil {
		empty := parse(bytes.NewReader(nil))
		f.value = &empty
	}
	return *f.value, changed, err
}

// lookNow has the next get look at the file, however soon that is.
func (f *file[T]) lookNow() {
	f.mu.Lock()
	f.looked = time.Time{}
	f.mu.Unlock()
}

func (f *file[T]) read(path string, open func(string) (*os.File, error), parse func(io.Reader) T) (changed bool, err error) {
	info, err := os.Stat(path)
	if err != nil {
		return false, fmt.Errorf("look at resolver file: %w", err)
	}
	if f.info != nil && os.SameFile(f.info, info) && f.info.ModTime().Equal(info.ModTime()) && f.info.Size() == info.Size() {
		return false, nil
	}
	if open == nil {
		open = os.Open
	}
	r, err := open(path)
	if err != nil {
		return false, fmt.Errorf("read resolver file: %w", err)
	}
	defer r.Close()
	v := parse(io.LimitReader(r, maxFile))
	f.value, f.info = &v, info
	return true, nil
}
