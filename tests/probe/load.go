package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weir-dev/weir/internal/testnet"
)

// stream is n bytes that are the same for everybody who knows n.
func stream(n int64) io.Reader { return io.LimitReader(rand.NewChaCha8([32]byte{1}), n) }

// many opens all flows before it uses the first.
func many(count, address, _ string) error {
	n, err := strconv.Atoi(count)
	if err != nil {
		return err
	}
	var back atomic.Int64
	var opened, done sync.WaitGroup
	opened.Add(n)
	for i := range n {
		done.Go(func() {
			c, err := dial("tcp", address)
			opened.Done()
			if err != nil {
				return
			}
			defer c.Close()
			opened.Wait()
			text := fmt.Sprint("flow ", i)
			io.WriteString(c, text)
			c.(*net.TCPConn).CloseWrite()
			if got, err := io.ReadAll(c); err == nil && string(got) == text {
				back.Add(1)
			}
		})
	}
	done.Wait()
	fmt.Printf("%d of %d\n", back.Load(), n)
	return nil
}

func upload(address, size, _ string) error {
	n, err := strconv.ParseInt(size, 10, 64)
	if err != nil {
		return err
	}
	c, err := dial("tcp", address)
	if err != nil {
		return err
	}
	sum := sha256.New()
	if _, err := io.Copy(c, io.TeeReader(stream(n), sum)); err != nil {
		return err
	}
	c.(*net.TCPConn).CloseWrite()
	theirs, err := io.ReadAll(c)
	if err != nil {
		return err
	}
	return compare(string(theirs), sum.Sum(nil))
}

func download(address, size, _ string) error {
	n, err := strconv.ParseInt(size, 10, 64)
	if err != nil {
		return err
	}
	c, err := dial("tcp", address)
	if err != nil {
		return err
	}
	fmt.Fprintln(c, n)
	sum, want := sha256.New(), sha256.New()
	if _, err := io.Copy(sum, c); err != nil {
		return err
	}
	io.Copy(want, stream(n))
	return compare(hex.EncodeToString(sum.Sum(nil)), want.Sum(nil))
}

func compare(theirs string, ours []byte) error {
	if theirs != hex.EncodeToString(ours) {
		return fmt.Errorf("the sums differ: %s, %x", theirs, ours)
	}
	fmt.Println("the same")
	return nil
}

// bursts is the same for everybody who knows count. The server sends every datagram back.
func bursts(address, count, _ string) error {
	n, err := strconv.Atoi(count)
	if err != nil {
		return err
	}
	c, err := dial("udp", address)
	if err != nil {
		return err
	}
	defer c.Close()
	datagrams, octets, err := testnet.Datagrams(c, 65507, n, 7)
	fmt.Printf("%d datagrams, %d octets\n", datagrams, octets)
	return err
}

func datagram(address, size, _ string) error {
	n, err := strconv.Atoi(size)
	if err != nil {
		return err
	}
	c, err := dial("udp", address)
	if err != nil {
		return err
	}
	if _, err := c.Write(make([]byte, n)); err != nil {
		return err
	}
	got, err := c.Read(make([]byte, 65536))
	if err == nil {
		fmt.Println("came back:", got)
	}
	return err
}

func after(address, text, _ string) error {
	c, err := dial("tcp", address)
	if err != nil {
		return err
	}
	said, err := io.ReadAll(c)
	if err != nil {
		return err
	}
	fmt.Printf("the server said %s\n", said)
	if _, err := io.WriteString(c, text); err != nil {
		return err
	}
	return c.Close()
}

func past(hole, address, _ string) error {
	go dial("tcp", hole)
	time.Sleep(100 * time.Millisecond) // the hanging dial comes first; the rest does not depend on it
	return tcp(address, "past it", "")
}

// hold has no deadline: whoever started it knows how long the end may take.
func hold(address, _, _ string) error {
	c, err := net.DialTimeout("tcp", address, patience)
	if err != nil {
		return err
	}
	defer c.Close()
	word := []byte("word")
	if _, err := c.Write(word); err != nil {
		return err
	}
	if _, err := io.ReadFull(c, word); err != nil {
		return err
	}
	fmt.Println("open")
	if _, err := c.Read(word); !errors.Is(err, io.EOF) {
		return err
	}
	fmt.Println("ended")
	return nil
}

// beat counts each datagram once, however often it comes.
func beat(address, count, _ string) error {
	n, err := strconv.Atoi(count)
	if err != nil {
		return err
	}
	c, err := net.DialTimeout("udp", address, patience)
	if err != nil {
		return err
	}
	defer c.Close()
	go func() {
		for i := range n {
			fmt.Fprint(c, i)
			time.Sleep(100 * time.Millisecond)
		}
	}()
	seen := map[string]bool{}
	c.SetReadDeadline(time.Now().Add(time.Duration(n)*100*time.Millisecond + 2*time.Second))
	for b := make([]byte, 100); len(seen) < n; {
		got, err := c.Read(b)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			break
		}
		if err == nil {
			seen[string(b[:got])] = true
		}
	}
	fmt.Printf("%d of %d\n", len(seen), n)
	return nil
}

// sizes sends as a program does that knows that datagrams get lost. What the kernel says of a path's MTU is no error to it.
func sizes(address, list, _ string) error {
	c, err := net.DialTimeout("udp", address, patience)
	if err != nil {
		return err
	}
	defer c.Close()
	var back []string
	for i, text := range strings.Split(list, ",") {
		n, err := strconv.Atoi(text)
		if err != nil {
			return err
		}
		if comesBack(c, bytes.Repeat([]byte{byte(i + 1)}, n)) {
			back = append(back, text)
		}
	}
	fmt.Println(strings.Join(back, ","))
	return nil
}

func comesBack(c net.Conn, datagram []byte) bool {
	got := make([]byte, 65536)
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		c.Write(datagram)
		for c.SetReadDeadline(time.Now().Add(500 * time.Millisecond)); ; {
			n, err := c.Read(got)
			if err != nil {
				break
			}
			if bytes.Equal(got[:n], datagram) {
				return true
			}
		}
	}
	return false
}

// ping uses the socket that needs no privilege, as ping(8) does.
func ping(address, _, _ string) error {
	ip := net.ParseIP(address)
	if ip == nil {
		return errors.New("ping wants an address")
	}
	family, proto, request, reply := unix.AF_INET, unix.IPPROTO_ICMP, byte(8), byte(0)
	var to unix.Sockaddr
	if v4 := ip.To4(); v4 != nil {
		to = &unix.SockaddrInet4{Addr: [4]byte(v4)}
	} else {
		family, proto, request, reply = unix.AF_INET6, unix.IPPROTO_ICMPV6, 128, 129
		to = &unix.SockaddrInet6{Addr: [16]byte(ip)}
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, proto)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: int64(patience / time.Second)})
	if err := unix.Connect(fd, to); err != nil {
		return os.NewSyscallError("connect", err)
	}
	if _, err := unix.Write(fd, append([]byte{request, 0, 0, 0, 0, 0, 0, 7}, "marco"...)); err != nil {
		return os.NewSyscallError("write", err)
	}
	b := make([]byte, 1500)
	n, err := unix.Read(fd, b)
	if err != nil {
		return os.NewSyscallError("read", err)
	}
	if n < 13 || b[0] != reply || b[7] != 7 || string(b[8:n]) != "marco" {
		return fmt.Errorf("not an answer: %x", b[:n])
	}
	fmt.Println("pong")
	return nil
}
