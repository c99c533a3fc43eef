package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// stampEvery is how often each flow says what time it is.
const stampEvery = 100 * time.Millisecond

// stamp keeps n flows busy, a fifth of them UDP, and opens more of them all the time; it says "ready" once all n have spoken.
// Each record is 8 octets: CLOCK_BOOTTIME in nanoseconds, taken right before the write. Two more processes stay around that a
// sloppy end would leave behind; TOKEN is in the arguments of all.
func stamp(count, address, token string) error {
	n, err := strconv.Atoi(count)
	if err != nil {
		return err
	}
	for _, session := range []bool{false, true} {
		child := exec.Command("/proc/self/exe", "linger", token)
		child.SysProcAttr = &syscall.SysProcAttr{Setsid: session}
		if err := child.Start(); err != nil {
			return err
		}
	}
	spoke := make(chan error, n)
	for i := range n {
		network := "tcp"
		if i%5 == 0 {
			network = "udp"
		}
		go stampFlow(network, address, spoke)
	}
	var errs []error
	for range n {
		errs = append(errs, <-spoke)
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	fmt.Println("ready")
	for {
		time.Sleep(10 * time.Millisecond)
		go stampFlow("tcp", address, make(chan error, 1))
	}
}

// stampFlow says so once it has spoken, and goes on for as long as it can.
func stampFlow(network, address string, spoke chan<- error) {
	c, err := net.DialTimeout(network, address, patience)
	if err == nil {
		_, err = c.Write(now())
	}
	spoke <- err
	for err == nil {
		time.Sleep(stampEvery)
		_, err = c.Write(now())
	}
}

// now is a record.
func now() []byte {
	var ts unix.Timespec
	unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts)
	return binary.BigEndian.AppendUint64(nil, uint64(ts.Nano()))
}

// linger is a process that does nothing.
func linger(string, string, string) error {
	time.Sleep(time.Hour)
	return nil
}
