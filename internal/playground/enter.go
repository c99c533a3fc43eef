//go:build linux

package playground

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"slices"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// marker is the environment variable that tells a process that it is inside already.
const marker = "WEIR_PLAYGROUND"

// setupCaps are what [Open], and attacks of tests, need over the new namespaces; they are gone from what it starts later.
var setupCaps = []uintptr{
	unix.CAP_NET_ADMIN, unix.CAP_SYS_ADMIN, unix.CAP_NET_BIND_SERVICE, unix.CAP_NET_RAW, unix.CAP_SYS_PTRACE, unix.CAP_SYS_CHROOT,
}

// Inside reports whether the process runs in a playground.
func Inside() bool { return os.Getenv(marker) != "" }

// Enter runs this program again, with the same arguments and standard streams, in namespaces of its own, and returns its
// exit status. An error says that the namespaces could not be made.
func Enter() (status int, err error) { return enter(nil) }

// EnterWithIDs is Enter with more ids than the caller's own: ranges of subordinate ids, each {first, count}, that are the
// same inside as outside. Inside newuidmap is not setuid, as the host's root is nobody there, so a program that is to run
// it keeps CAP_SETUID and CAP_SETGID (see [Shed]).
func EnterWithIDs(uids, gids [][2]int) (status int, err error) {
	return enter(func(pid int) error {
		if err := mapIDs("newuidmap", pid, os.Getuid(), uids); err != nil {
			return err
		}
		return mapIDs("newgidmap", pid, os.Getgid(), gids)
	})
}

func mapIDs(program string, pid, own int, ranges [][2]int) error {
	args := []string{strconv.Itoa(pid)}
	for _, r := range append([][2]int{{own, 1}}, ranges...) {
		args = append(args, strconv.Itoa(r[0]), strconv.Itoa(r[0]), strconv.Itoa(r[1]))
	}
	if out, err := exec.Command(program, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", program, err, out)
	}
	return nil
}

// enter runs the program in new namespaces whose ids are mapped by mapping, or to the caller's own if there is none.
func enter(mapping func(pid int) error) (status int, err error) {
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = os.Args
	cmd.Env = append(os.Environ(), marker+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET | syscall.CLONE_NEWNS,
		AmbientCaps: setupCaps,
	}
	if mapping == nil {
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: os.Getuid(), HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: os.Getgid(), HostID: os.Getgid(), Size: 1}}
	} else {
		cmd.SysProcAttr.AmbientCaps = append(slices.Clone(setupCaps), unix.CAP_SETUID, unix.CAP_SETGID, unix.CAP_SETFCAP)
		if os.Getuid() == 0 { // who would have them by himself if he were 0 inside when the program starts
			cmd.SysProcAttr.AmbientCaps = append(cmd.SysProcAttr.AmbientCaps, unix.CAP_DAC_OVERRIDE, unix.CAP_CHOWN, unix.CAP_FOWNER)
		}
	}
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGQUIT)
	defer signal.Stop(signals)
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("enter playground: %w", err)
	}
	if mapping != nil {
		if err := mapping(cmd.Process.Pid); err != nil {
			cmd.Process.Kill()
			cmd.Wait()
			return 0, fmt.Errorf("enter playground: %w", err)
		}
	}
	go func() {
		for s := range signals {
			cmd.Process.Signal(s)
		}
	}()
	cmd.Wait()
	if ws, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return 128 + int(ws.Signal()), nil
	}
	return cmd.ProcessState.ExitCode(), nil
}

// awaitIDs waits until this process's user namespace has its ids, which come from outside.
func awaitIDs() error {
	for range 1000 {
		if m, err := os.ReadFile("/proc/self/gid_map"); err != nil || len(m) > 0 {
			return err
		}
		time.Sleep(10 * time.Millisecond)
	}
	return errors.New("the user namespace got no ids")
}

// Start starts cmd as an ordinary program of the host: the capabilities that the playground was made with stay behind
// (unless the user is root, who is root in the playground too).
func Start(cmd *exec.Cmd) error {
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread without ambient capabilities ends with this goroutine
		if err := clearAmbient(); err != nil {
			started <- err
			return
		}
		started <- cmd.Start()
	}()
	return <-started
}

// Shed does the same for a program that is running already: it executes itself again. It returns only if there was
// nothing to shed, or with an error. The capabilities in keep stay.
func Shed(keep ...uintptr) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	have, err := unix.PrctlRetInt(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_IS_SET, unix.CAP_NET_ADMIN, 0, 0)
	if err != nil || have == 0 {
		return err
	}
	if err := clearAmbient(); err != nil {
		return err
	}
	for _, c := range keep {
		if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, c, 0, 0); err != nil {
			return fmt.Errorf("keep capability %d: %w", c, err)
		}
	}
	return unix.Exec("/proc/self/exe", os.Args, os.Environ())
}

// clearAmbient works on the calling thread.
func clearAmbient() error {
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return fmt.Errorf("drop ambient capabilities: %w", err)
	}
	return nil
}
