package event

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"
)

const (
	// lockRetry is the first and lockRetryMax the last pause between two attempts to lock the file.
	lockRetry    = time.Millisecond
	lockRetryMax = 20 * time.Millisecond
)

// Files is how a log gets at the files behind its path. It stands between the two where the process that writes lines may
// not open or rename files itself; [Disk] is for all others.
type Files interface {
	// Open opens the file that path names for appending, as [Disk] does.
	Open(path string) (*os.File, error)

	// Rotate renames path to path.1 after the older ones, at most keep of them, have moved on. The oldest is overwritten.
	// Who calls it holds the flock of the file that path names.
	Rotate(path string, keep int) error
}

// Disk is the file system as this process may use it.
type Disk struct{}

// Open implements [Files]. A file that is missing is made with mode 0600, its directory with mode 0700.
func (Disk) Open(path string) (*os.File, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	return os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE|openNonblock, 0o600)
}

// Rotate implements [Files].
func (Disk) Rotate(path string, keep int) error {
	for i := keep - 1; i >= 1; i-- {
		err := os.Rename(rotated(path, i), rotated(path, i+1))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return os.Rename(path, rotated(path, 1))
}

func rotated(path string, i int) string { return fmt.Sprintf("%s.%d", path, i) }

// file is a regular file that many processes append to. Whoever holds the flock of the file that path names may write
// and rotate; who gets the lock of a file that path names no more opens the new one.
type file struct {
	files  Files
	path   string
	limits Limits
	f      *os.File

	// expires is when waiting for the lock ends, in Unix nanoseconds; 0 is never.
	expires atomic.Int64
}

// openPath opens the output that path names.
func openPath(files Files, path string, limits Limits) (output, error) {
	if resolved, err := filepath.EvalSymlinks(path); err == nil {
		path = resolved
	}
	f, err := files.Open(path)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if !info.Mode().IsRegular() {
		return &descriptor{f: f}, nil
	}
	return &file{files: files, path: path, limits: limits, f: f}, nil
}

func (l *file) expire(t time.Time) { l.expires.Store(t.UnixNano()) }

func (l *file) expired() bool {
	t := l.expires.Load()
	return t != 0 && time.Now().UnixNano() > t
}

func (l *file) close() error { return l.f.Close() }

// write appends the lines with one write(2). What a full disk let through of a line is taken back.
func (l *file) write(b []byte, ends []int) (int, error) {
	size, err := l.acquire(int64(len(b)))
	if err != nil {
		return 0, err
	}
	defer l.unlock()
	n, err := l.f.Write(b)
	if err == nil {
		return len(ends), nil
	}
	whole, kept := 0, 0
	for whole < len(ends) && ends[whole] <= n {
		kept = ends[whole]
		whole++
	}
	if kept < n {
		err = errors.Join(err, l.f.Truncate(size+int64(kept)))
	}
	return whole, err
}

// acquire locks the file that path names now, rotated before if n octets more are too many, and returns its size. Each
// further round means that another writer has filled a whole file in between.
func (l *file) acquire(n int64) (int64, error) {
	for {
		if err := l.lock(); err != nil {
			return 0, err
		}
		size, current, err := l.inspect()
		if err != nil {
			l.unlock()
			return 0, err
		}
		if current && (size == 0 || size+n <= l.limits.FileSize || l.files.Rotate(l.path, l.limits.Keep) != nil) {
			return size, nil
		}
		if err := l.reopen(); err != nil {
			return 0, err
		}
		if l.expired() {
			return 0, fmt.Errorf("lock %s: %w", l.path, os.ErrDeadlineExceeded)
		}
	}
}

// lock takes the flock, waiting for other writers until the output expires.
func (l *file) lock() error {
	for pause := lockRetry; ; pause = min(2*pause, lockRetryMax) {
		busy, err := tryLock(l.f)
		switch {
		case err != nil:
			return fmt.Errorf("lock %s: %w", l.path, err)
		case !busy:
			return nil
		}
		if l.expired() {
			return fmt.Errorf("lock %s: %w", l.path, os.ErrDeadlineExceeded)
		}
		time.Sleep(pause)
	}
}

func (l *file) unlock() { unlock(l.f) }

// inspect returns the size of the open file and whether path still names it.
func (l *file) inspect() (size int64, current bool, err error) {
	open, err := l.f.Stat()
	if err != nil {
		return 0, false, err
	}
	named, err := os.Stat(l.path)
	if errors.Is(err, fs.ErrNotExist) {
		return open.Size(), false, nil
	}
	if err != nil {
		return 0, false, err
	}
	return open.Size(), os.SameFile(open, named), nil
}

// reopen gives up the file that is open, and with it the lock, for the one that path names.
func (l *file) reopen() error {
	f, err := l.files.Open(l.path)
	if err != nil {
		l.unlock()
		return err
	}
	old := l.f
	l.f = f
	return old.Close()
}
