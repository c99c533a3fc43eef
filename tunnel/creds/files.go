package creds

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// maxFile bounds what is read of one file, in octets; the longest registry that there can be has some 30 MiB.
const maxFile = 64 << 20

// partial begins the name of a file that is being written. One that is left over is the work of a process that died.
const partial = ".partial-"

// stamp tells one version of a file from another. A writer makes the time of each later than that of the one before.
type stamp struct {
	modified time.Time
	size     int64
}

func stampOf(fi os.FileInfo) stamp { return stamp{fi.ModTime(), fi.Size()} }

// PermissionError is a file or directory of ours that others can get at.
type PermissionError struct {
	Path string
	Mode os.FileMode // what it should be at most
	UID  int         // whose it is, where that is what is wrong; -1 otherwise
}

func (e *PermissionError) Error() string {
	if e.UID >= 0 {
		return fmt.Sprintf("%s: belongs to user %d, not to this one", e.Path, e.UID)
	}
	return fmt.Sprintf("%s: other users may read or write it", e.Path)
}

// readPrivate reads a file that nobody else may read or write, nor may have made.
func readPrivate(path string) ([]byte, stamp, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, stamp{}, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return nil, stamp{}, err
	}
	if !fi.Mode().IsRegular() {
		return nil, stamp{}, fmt.Errorf("%s: not a regular file", path)
	}
	if err := checkPrivate(path, fi); err != nil {
		return nil, stamp{}, err
	}
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(b) > maxFile {
		err = fmt.Errorf("%s: more than %d octets", path, maxFile)
	}
	return b, stampOf(fi), err
}

// writePrivate replaces a file as a whole. It is on the disk when this returns.
func writePrivate(path string, b []byte) (err error) {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, partial+"*") // mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	_, err = f.Write(b)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := later(f.Name(), path); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncDir(dir)
}

// later makes the time of the new file later than that of the old one: two versions of one length can be written within one
// tick of the clock by which files are stamped.
func later(fresh, old string) error {
	was, err := os.Stat(old)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	is, err := os.Stat(fresh)
	if err != nil || is.ModTime().After(was.ModTime()) {
		return err
	}
	t := was.ModTime().Add(time.Millisecond)
	return os.Chtimes(fresh, t, t)
}

// sweep removes what processes that died have left. The caller holds the lock.
func sweep(dir string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return // the next write says what is wrong
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), partial) {
			os.Remove(filepath.Join(dir, e.Name()))
		}
	}
}

// decodeFile reads JSON of a version that we know.
func decodeFile(path string, b []byte, v interface{ version() int }) error {
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("%s: damaged", path) // not the error of json, which could hold some of a key
	}
	if v.version() != fileVersion {
		return fmt.Errorf("%s: version %d, want %d: a newer weir has written it", path, v.version(), fileVersion)
	}
	return nil
}

// fileVersion is that of both files of the store.
const fileVersion = 1
