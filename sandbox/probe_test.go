//go:build linux

package sandbox

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// probe is a program inside the sandbox: it tries one thing, prints what came of it and returns its exit code.
func probe(what []string) int {
	switch what[0] {
	case "dial-unix":
		for _, p := range what[1:] {
			c, err := net.Dial("unix", p)
			if err == nil {
				c.Close()
			}
			fmt.Println("dial", err == nil)
		}
	case "system-calls":
		tryCalls()
	case "change-null": // to what it has: nothing happens to the host where this works
		fmt.Println(os.Chmod("/dev/null", 0o666|os.ModeDevice))
		fmt.Println(unix.Fchmod(0, 0o666))
	case "own-socket":
		l, err := net.Listen("unix", what[1])
		if err != nil {
			fmt.Println(err)
			return 1
		}
		defer l.Close()
		c, err := net.Dial("unix", what[1])
		fmt.Println(err == nil)
		if err == nil {
			c.Close()
		}
	case "own-filter":
		fmt.Println(ownFilter())
	case "threads": // until the runtime gives up, with a word of its own on how far it got
		for {
			go func() {
				runtime.LockOSThread()
				unix.Pause()
			}()
		}
	case "disks":
		for _, p := range what[1:] {
			fmt.Println(p, disk(p))
		}
	case "unshare":
		cmd := exec.Command("/proc/self/exe")
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER}
		fmt.Println(cmd.Run())
	case "echo": // udp to the address, waits for the same back
		fmt.Println(echo(what[1]))
	case "get": // tcp, prints all that comes
		c, err := net.DialTimeout("tcp", what[1], 5*time.Second)
		if err != nil {
			fmt.Println(err)
			return 1
		}
		io.Copy(os.Stdout, c)
	case "serve": // tcp, one connection, says hello
		l, err := net.Listen("tcp", what[1])
		if err != nil {
			fmt.Println(err)
			return 1
		}
		fmt.Println("listening")
		c, err := l.Accept()
		if err != nil {
			return 1
		}
		c.Write([]byte("hello from inside"))
		c.(*net.TCPConn).CloseWrite()
		io.Copy(io.Discard, c) // the sandbox ends with us: not before the other side is done
	case "reopen-tun":
		_, err := unix.Open("/dev/net/tun", unix.O_RDWR, 0)
		fmt.Println(err)
	case "trace-init":
		traced := unix.PtraceAttach(1)
		if traced == nil { // leave it running, for the test to end
			unix.Wait4(1, nil, 0, nil)
			unix.PtraceDetach(1)
		}
		fmt.Println("ptrace", traced)
		fd, err := unix.PidfdOpen(1, 0)
		if err == nil {
			_, err = unix.PidfdGetfd(fd, 3, 0)
		}
		fmt.Println("getfd", err)
	}
	return 0
}

// ownFilter puts a filter that allows everything over the one that is there, as a supervisor of itself, and asks for a
// socket.
func ownFilter() error {
	runtime.LockOSThread()
	all := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW}
	prog := unix.SockFprog{Len: 1, Filter: &all}
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_NEW_LISTENER, uintptr(unsafe.Pointer(&prog)))
	if errno != 0 {
		return fmt.Errorf("load: %w", errno)
	}
	_, _, errno = unix.RawSyscall(unix.SYS_SOCKET, unix.AF_VSOCK, unix.SOCK_STREAM, 0)
	return errno
}

// disk says whether a file system in memory is bounded: below a third of the machine's memory, and in the number of files.
func disk(p string) string {
	var fs unix.Statfs_t
	var info unix.Sysinfo_t
	if err := errors.Join(unix.Statfs(p, &fs), unix.Sysinfo(&info)); err != nil {
		return err.Error()
	}
	total := info.Totalram * uint64(info.Unit)
	return fmt.Sprint(fs.Blocks*uint64(fs.Bsize) < total/3, " ", fs.Files <= 262144)
}

func echo(addr string) error {
	c, err := net.Dial("udp", addr)
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := c.Write([]byte("over the link")); err != nil {
		return err
	}
	buf := make([]byte, 64)
	n, err := c.Read(buf)
	if err == nil && string(buf[:n]) != "over the link" {
		err = errors.New("got something else")
	}
	return err
}
