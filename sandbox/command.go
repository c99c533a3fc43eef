//go:build linux

package sandbox

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// startCommand executes CMD on a thread that has been confined and is never used for anything else.
func startCommand(o orders) (int, error) {
	var pid int
	var err error
	onThreadOfItsOwn(func() { pid, err = confineAndExec(o) })
	return pid, err
}

// onThreadOfItsOwn runs f on a thread that f may spoil: no other goroutine ever runs on it. That thread is never the
// first one, which stands for the whole of init wherever the kernel is asked about a pid.
func onThreadOfItsOwn(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			onThreadOfItsOwn(f) // while we hold the first one
			runtime.UnlockOSThread()
			return
		}
		f() // and the thread ends with this goroutine
	}()
	<-done
}

func confineAndExec(o orders) (int, error) {
	if err := confine(o.Spec); err != nil {
		return 0, err
	}
	if err := dropOwnPrivileges(); err != nil {
		return 0, err
	}
	streams, err := handOverStreams()
	if err != nil {
		return 0, err
	}
	defer func() {
		for _, fd := range streams {
			unix.Close(int(fd))
		}
	}()
	return execCommand(o, streams)
}

// execCommand finds CMD and executes it with these streams.
func execCommand(o orders, streams [3]uintptr) (int, error) {
	name := o.Spec.Command[0]
	cwd := insideDir(o.Spec, o.Dir)
	file, err := lookPath(name, lookupEnv(o.Spec.Env, "PATH"), cwd)
	if err != nil {
		return 0, &ExecError{Name: name, Err: err}
	}
	pid, err := syscall.ForkExec(file, o.Spec.Command, &syscall.ProcAttr{
		Dir: cwd, Env: o.Spec.Env, Files: streams[:],
		// Without a terminal of the caller CMD gets a session of its own, so that it cannot open that terminal either.
		Sys: &syscall.SysProcAttr{Setsid: !o.SharedTerminal},
	})
	if err == syscall.ENOENT {
		err = interpreterError(file)
	}
	if err != nil {
		return 0, &ExecError{Name: name, Err: err}
	}
	return pid, nil
}

// handOverStreams takes the caller's streams away from init and returns them for CMD. CMD can end us by a signal that the
// Go runtime does not survive; what the runtime says then is not CMD's output. Neither do we keep a pipe open that CMD closes.
// The host's /dev/null becomes the one inside, of which CMD cannot change the mode by its descriptor, even as root.
func handOverStreams() (streams [3]uintptr, err error) {
	fail := func(err error) error { return &SetupError{Step: StepConfine, Path: "streams", Err: err} }
	null, err := unix.Open(os.DevNull, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return streams, fail(err)
	}
	defer unix.Close(null)
	for i := range streams {
		from := i
		if isNull(i) {
			from = null
		}
		fd, err := unix.FcntlInt(uintptr(from), unix.F_DUPFD_CLOEXEC, 3)
		if err == nil {
			streams[i] = uintptr(fd)
			err = unix.Dup3(null, i, 0)
		}
		if err != nil {
			return streams, fail(err)
		}
	}
	return streams, nil
}

func isNull(fd int) bool {
	var st unix.Stat_t
	return unix.Fstat(fd, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == unix.Mkdev(1, 3)
}

// interpreterError explains an ENOENT for a file that is there: 126 and not 127.
func interpreterError(file string) error {
	return &fs.PathError{Op: "find interpreter of", Path: file, Err: fs.ErrPermission}
}

// insideDir is where CMD starts: the caller's directory if that very directory is to be seen inside, else the home.
func insideDir(spec Spec, outside inode) string {
	if outside != (inode{}) {
		candidates := []string{spec.Dir}
		for _, sh := range spec.Shares {
			if rel, ok := strings.CutPrefix(path.Clean(spec.Dir), path.Clean(sh.Host)); ok {
				candidates = append(candidates, path.Join(sh.Inside, rel))
			}
		}
		for _, c := range candidates {
			if inodeOf(c) == outside {
				return c
			}
		}
	}
	if inodeOf(spec.HomePath) == (inode{}) {
		return "/"
	}
	return spec.HomePath
}

// lookPath finds name as execvp(3) does, in CMD's own PATH; relative entries count from dir.
func lookPath(name, list, dir string) (string, error) {
	abs := func(p string) string {
		if path.IsAbs(p) {
			return p
		}
		return path.Join(dir, p)
	}
	if strings.Contains(name, "/") {
		return abs(name), executable(abs(name))
	}
	found := error(exec.ErrNotFound)
	for _, d := range strings.Split(list, ":") {
		file := path.Join(abs(d), name)
		err := executable(file)
		if err == nil {
			return file, nil
		}
		if errors.Is(err, fs.ErrPermission) {
			found = err
		}
	}
	return "", found
}

// executable returns nil, exec.ErrNotFound or fs.ErrPermission.
func executable(file string) error {
	var st unix.Stat_t
	if err := unix.Stat(file, &st); err != nil {
		if err == unix.EACCES {
			return fs.ErrPermission
		}
		return exec.ErrNotFound
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR || unix.Access(file, unix.X_OK) != nil {
		return fs.ErrPermission
	}
	return nil
}

func lookupEnv(env []string, name string) string {
	for _, kv := range env {
		if v, ok := strings.CutPrefix(kv, name+"="); ok {
			return v
		}
	}
	return ""
}
