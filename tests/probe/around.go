package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// onTerminal runs the command as a shell in a terminal would: in a session of its own whose controlling terminal is its
// stdin, stdout and stderr. What it shows goes to stdout, and its status becomes ours.
func onTerminal(command []string) int {
	master, slave, err := openTerminal()
	if err != nil || len(command) == 0 {
		fmt.Fprintln(os.Stderr, "probe tty:", err)
		return 2
	}
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		fmt.Fprintln(os.Stderr, "probe tty:", err)
		return 2
	}
	slave.Close()
	shown := make(chan struct{})
	go func() {
		io.Copy(os.Stdout, master) // ends with EIO when the last one has closed the terminal
		close(shown)
	}()
	go io.Copy(master, os.Stdin) // what the script types
	err = cmd.Wait()
	<-shown
	return statusOf(err)
}

func openTerminal() (master, slave *os.File, err error) {
	master, err = os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		return nil, nil, err
	}
	fd := int(master.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		return nil, nil, os.NewSyscallError("unlock terminal", err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		return nil, nil, os.NewSyscallError("name terminal", err)
	}
	if err := unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: 40, Col: 120}); err != nil {
		return nil, nil, os.NewSyscallError("size terminal", err)
	}
	slave, err = os.OpenFile("/dev/pts/"+strconv.Itoa(n), os.O_RDWR|syscall.O_NOCTTY, 0)
	return master, slave, err
}

// eventually waits for what another program is still about to open.
func eventually(args []string) int {
	for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		out, err := exec.Command("/proc/self/exe", args...).Output()
		if err == nil && len(bytes.TrimSpace(out)) > 0 {
			os.Stdout.Write(out)
			return 0
		}
		if time.Now().After(end) {
			os.Stdout.Write(out)
			fmt.Println("error: it never went well:", err)
			return 1
		}
	}
}

func statusOf(err error) int {
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit) && exit.Exited():
		return exit.ExitCode()
	case errors.As(err, &exit):
		return 128 + int(exit.Sys().(syscall.WaitStatus).Signal())
	}
	return 2
}
