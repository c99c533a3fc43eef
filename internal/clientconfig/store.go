package clientconfig

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// ErrChanged says that somebody else wrote the file between reading and writing it. Nothing was touched.
var ErrChanged = errors.New("the file was changed meanwhile")

// Read reads a configuration file.
func Read(path string) ([]byte, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read config: %w", err)
	}
	return b, nil
}

// SaveWrapped writes a change that [Wrap] returned, after keeping the old content in a file beside it, whose path it
// returns. That file has mode 0600, because environments of servers hold secrets.
func SaveWrapped(c *Change) (backup string, err error) {
	if !c.Changed() {
		return "", nil
	}
	backup = backupPath(c.Path, c.After)
	if err := writeBackup(backup, c.Before); err != nil {
		return "", fmt.Errorf("keep a backup of %s: %w", c.Path, err)
	}
	if err := replaceFile(c); err != nil {
		return "", errors.Join(err, os.Remove(backup))
	}
	return backup, nil
}

// SaveUnwrapped writes a change that [Unwrap] returned and removes the backups that are used up.
func SaveUnwrapped(c *Change) error {
	if !c.Changed() {
		return nil
	}
	if err := replaceFile(c); err != nil {
		return err
	}
	for _, backup := range c.restored {
		if err := os.Remove(backup); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove backup: %w", err)
		}
	}
	return nil
}

// Backups returns the backups that are still beside the file: of contents that it no longer came from.
func Backups(path string) []string {
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		return nil
	}
	var found []string
	for _, e := range entries {
		rest, ok := strings.CutPrefix(e.Name(), filepath.Base(path)+".weir-")
		if digest, bak := strings.CutSuffix(rest, ".bak"); ok && bak && len(digest) == 16 {
			found = append(found, filepath.Join(filepath.Dir(path), e.Name()))
		}
	}
	return found
}

// backupPath is where the content before is kept while the file holds content.
func backupPath(path string, content []byte) string {
	digest := sha256.Sum256(content)
	return fmt.Sprintf("%s.weir-%x.bak", path, digest[:8])
}

// backupOf returns what the file held before it was wrapped into content, and where that is kept; empty without a backup.
func backupOf(path string, content []byte) (before []byte, backup string) {
	backup = backupPath(path, content)
	before, err := os.ReadFile(backup)
	if err != nil {
		return nil, ""
	}
	return before, backup
}

func writeBackup(path string, content []byte) error {
	temp, err := writeTemp(path, content)
	if err != nil {
		return err
	}
	return finish(temp, path)
}

// replaceFile puts the new content in place at once: by renaming a finished file over the old one, or over what a symbolic
// link points to. Permissions and owner stay.
func replaceFile(c *Change) error {
	target, err := filepath.EvalSymlinks(c.Path)
	if err != nil {
		return fmt.Errorf("write config: %w", err)
	}
	info, err := os.Stat(target)
	if err != nil {
		return fmt.Errorf("write config: %w", err)
	}
	temp, err := writeTemp(target, c.After)
	if err != nil {
		return fmt.Errorf("write config: %w", err)
	}
	if err := keepOwner(temp, info); err != nil {
		return fmt.Errorf("write config: %w", errors.Join(err, os.Remove(temp)))
	}
	now, err := os.ReadFile(target)
	if err == nil && !bytes.Equal(now, c.Before) {
		err = fmt.Errorf("%s: %w", c.Path, ErrChanged)
	}
	if err != nil {
		return fmt.Errorf("write config: %w", errors.Join(err, os.Remove(temp)))
	}
	if err := finish(temp, target); err != nil {
		return fmt.Errorf("write config: %w", err)
	}
	return nil
}

// writeTemp writes a file with mode 0600 beside path and makes it durable.
func writeTemp(path string, content []byte) (name string, err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".weir-*")
	if err != nil {
		return "", err
	}
	_, err = f.Write(content)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return "", errors.Join(err, os.Remove(f.Name()))
	}
	return f.Name(), nil
}

func finish(temp, path string) error {
	if err := os.Rename(temp, path); err != nil {
		return errors.Join(err, os.Remove(temp))
	}
	return nil
}

// keepOwner gives the new file the permissions and the owner of the old one. A group that the user is not a member of
// cannot be kept; the file is then the user's own group's, which gives nobody more than it did.
func keepOwner(path string, old fs.FileInfo) error {
	if st, ok := old.Sys().(*syscall.Stat_t); ok && (int(st.Uid) != os.Geteuid() || int(st.Gid) != os.Getegid()) {
		err := os.Chown(path, int(st.Uid), int(st.Gid))
		if err != nil && int(st.Uid) != os.Geteuid() {
			return err
		}
	}
	return os.Chmod(path, old.Mode().Perm())
}
