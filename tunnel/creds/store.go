//go:build unix

package creds

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"
)

// The files of a store.
const (
	keysFile     = "keys.json"
	registryFile = "registry.json"
	lockName     = "lock"
)

// StoreConfig configures a [Store].
type StoreConfig struct {
	// Dir is the directory: the caller's own, mode 0700. Others of the same user may have it open, too.
	Dir string

	// Create has the directory, the authority and the keys made if they are not there.
	Create bool

	// Clock is for tests; nil is time.Now.
	Clock func() time.Time

	// Log takes diagnostics; nil for none. No secret passes through it.
	Log logrus.FieldLogger
}

// Store is the hosted side's directory. All methods may be called from many goroutines.
type Store struct {
	dir   string
	clock func() time.Time
	log   logrus.FieldLogger

	mu    sync.Mutex // one goroutine reads the files
	state atomic.Pointer[state]

	tls    edgeTLS
	enrols enrolments
}

// state is what the files said when they were last read. It is replaced, never changed.
type state struct {
	keys     *keys
	registry *registry
	stamps   [2]stamp
}

// ErrNoStore is what [OpenStore] returns when there is nothing and nothing is to be made.
var ErrNoStore = errors.New("no keys have been made yet")

// OpenStore opens the directory. There is nothing to close. A file that is damaged, or that others may read, is an error:
// nothing of it is ever made anew in silence.
func OpenStore(c StoreConfig) (*Store, error) {
	s := &Store{dir: c.Dir, clock: c.Clock, log: c.Log}
	if s.clock == nil {
		s.clock = time.Now
	}
	if s.log == nil {
		silent := logrus.New()
		silent.SetLevel(logrus.PanicLevel)
		s.log = silent
	}
	if c.Create {
		if err := os.MkdirAll(s.dir, 0o700); err != nil {
			return nil, fmt.Errorf("open keys: %w", err)
		}
	}
	fi, err := os.Stat(s.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("open keys: %s: %w", s.dir, ErrNoStore)
	}
	if err == nil && !fi.IsDir() {
		err = fmt.Errorf("%s: not a directory", s.dir)
	}
	if err == nil {
		err = checkPrivate(s.dir, fi)
	}
	if err == nil {
		err = s.complete(c.Create)
	}
	if err == nil {
		_, err = s.load()
	}
	if err != nil {
		return nil, fmt.Errorf("open keys: %w", err)
	}
	return s, nil
}

func (s *Store) now() time.Time { return s.clock().UTC() }

func (s *Store) path(name string) string { return filepath.Join(s.dir, name) }

// complete sees that both files are there, and makes them if neither is. The registry is made first: one without clients and
// without keys is what a process has left that died in between, any other that lacks the keys is damage.
func (s *Store) complete(create bool) error {
	if s.has(registryFile) && s.has(keysFile) {
		return nil
	}
	if !create && !s.has(registryFile) && !s.has(keysFile) {
		return fmt.Errorf("%s: %w", s.dir, ErrNoStore)
	}
	lock, err := lockFile(s.path(lockName))
	if err != nil {
		return err
	}
	defer lock.Close()
	switch {
	case s.has(registryFile) && s.has(keysFile): // another process was faster
		return nil
	case s.has(keysFile):
		return fmt.Errorf("%s: it is missing, and %s is there", s.path(registryFile), keysFile)
	case s.has(registryFile):
		r := &registry{}
		b, _, err := readPrivate(s.path(registryFile))
		if err == nil {
			err = decodeFile(s.path(registryFile), b, r)
		}
		if err != nil {
			return err
		}
		if !create || len(r.Clients)+len(r.Tokens) > 0 {
			return fmt.Errorf("%s: it is missing, and %s is there", s.path(keysFile), registryFile)
		}
	}
	k, err := newKeys(s.now())
	if err != nil {
		return err
	}
	if err := writeJSON(s.path(registryFile), &registry{Version: fileVersion}); err != nil {
		return err
	}
	return writeJSON(s.path(keysFile), k)
}

// has reports whether the file is there. One that cannot be looked at is there: reading it says what is wrong.
func (s *Store) has(name string) bool {
	_, err := os.Stat(s.path(name))
	return !errors.Is(err, fs.ErrNotExist)
}

// load returns what the files say now. It reads them only if they have changed.
func (s *Store) load() (*state, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.state.Load()
	changed := st == nil
	for i, name := range []string{keysFile, registryFile} {
		fi, err := os.Stat(s.path(name))
		if err != nil {
			return nil, err
		}
		changed = changed || stampOf(fi) != st.stamps[i]
	}
	if !changed {
		return st, nil
	}
	st, err := s.read()
	if err != nil {
		return nil, err
	}
	s.state.Store(st)
	return st, nil
}

// read reads both files. The registry is read after the keys: a certificate is noted before it is given out.
func (s *Store) read() (*state, error) {
	st := &state{keys: &keys{}, registry: &registry{}}
	for i, f := range []struct {
		name  string
		into  interface{ version() int }
		check func() error
	}{{keysFile, st.keys, st.keys.parse}, {registryFile, st.registry, st.registry.index}} {
		b, stamp, err := readPrivate(s.path(f.name))
		if err == nil {
			err = decodeFile(s.path(f.name), b, f.into)
		}
		if err == nil {
			if err = f.check(); err != nil {
				err = fmt.Errorf("%s: %w", s.path(f.name), err)
			}
		}
		if err != nil {
			return nil, err
		}
		st.stamps[i] = stamp
	}
	return st, nil
}

// update changes the registry, alone among all processes. What change returns an error for is not written.
func (s *Store) update(change func(st *state, now time.Time) error) error {
	return s.locked(func(st *state) (string, any, error) {
		now := s.now()
		st.registry.prune(now)
		return registryFile, st.registry, change(st, now)
	})
}

// locked reads the files anew, has one of them changed, and writes it.
func (s *Store) locked(change func(st *state) (name string, content any, err error)) error {
	lock, err := lockFile(s.path(lockName))
	if err != nil {
		return err
	}
	defer lock.Close()
	sweep(s.dir)
	st, err := s.read() // a state of our own, which may be changed
	if err != nil {
		return err
	}
	name, content, err := change(st)
	if err != nil {
		return err
	}
	if err := writeJSON(s.path(name), content); err != nil {
		return fmt.Errorf("write %s: %w", s.path(name), err)
	}
	_, err = s.load()
	return err
}

func writeJSON(path string, v any) error {
	b, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		return err
	}
	return writePrivate(path, append(b, '\n'))
}

// Keys are what a QUIC transport of the edge must have to be known after a restart.
type Keys struct{ StatelessReset, TokenGenerator [32]byte }

// Keys returns them.
func (s *Store) Keys() (Keys, error) {
	st, err := s.load()
	if err != nil {
		return Keys{}, fmt.Errorf("read keys: %w", err)
	}
	return Keys{[32]byte(st.keys.Reset), [32]byte(st.keys.Token)}, nil
}
