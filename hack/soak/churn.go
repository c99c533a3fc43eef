//go:build linux

package main

import (
	"bufio"
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
	"syscall"
	"time"
)

// kinds of flows, with how often each happens of a hundred.
var kinds = []struct {
	name  string
	share int
	make  func() error
}{
	{"tcp", 26, func() error { return echoTCP(server.String() + ":7") }},
	{"tcp by name", 6, func() error { return echoTCP(fmt.Sprintf("n%d.churn.example:7", rand.IntN(names))) }},
	{"tcp, reset", 8, resetTCP},
	{"tcp, cut", 4, cutTCP},
	{"tcp, refused", 8, func() error { return expectFailure("tcp", closed.String()+":9") }},
	{"tcp, denied", 14, func() error { return expectFailure("tcp", fmt.Sprintf("%s:%d", secret, 1+rand.IntN(60000))) }},
	{"tcp, silent", 3, silentTCP},
	{"tcp, nobody there", 1, func() error { go net.DialTimeout("tcp", hole.String()+":80", time.Second); return nil }},
	{"udp", 12, func() error { return datagram(server.String()+":7", "hello") }},
	{"udp, unanswered", 6, func() error { return datagram(fmt.Sprintf("%s:%d", hole, 1+rand.IntN(60000)), "") }},
	{"udp, denied", 6, func() error { return datagram(fmt.Sprintf("%s:%d", secret, 1+rand.IntN(60000)), "") }},
	{"dns, denied", 6, func() error { net.LookupHost(fmt.Sprintf("d%d.leak.example", rand.Uint32())); return nil }},
}

// churnMain makes flows at a pace (0: as many as it can) until it is told to stop: "churn PACE WORKERS". Orders are numbers
// of flows; each is answered with what became of them when they are over.
func churnMain(args []string) error {
	pace, _ := strconv.Atoi(args[0])
	workers, _ := strconv.Atoi(args[1])
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		n, err := strconv.Atoi(strings.TrimSpace(in.Text()))
		if err != nil {
			return fmt.Errorf("churn: %w", err)
		}
		fmt.Println(makeFlows(n, pace, workers))
	}
	return nil
}

// makeFlows returns how many flows went as they should and how many did not, by kind.
func makeFlows(n, pace, workers int) string {
	var good, bad atomic.Int64
	failures := map[string]int{}
	var mu sync.Mutex
	turns := make(chan struct{})
	var work sync.WaitGroup
	for range workers {
		work.Go(func() {
			for range turns {
				k := pick()
				if err := kinds[k].make(); err != nil {
					bad.Add(1)
					mu.Lock()
					failures[kinds[k].name+": "+brief(err)]++
					mu.Unlock()
				} else {
					good.Add(1)
				}
			}
		})
	}
	start := time.Now()
	for i := range n {
		if pace > 0 {
			time.Sleep(time.Until(start.Add(time.Duration(i) * time.Second / time.Duration(pace))))
		}
		turns <- struct{}{}
	}
	close(turns)
	work.Wait()
	return fmt.Sprintf("%d good, %d bad %v in %.1f s", good.Load(), bad.Load(), failures, time.Since(start).Seconds())
}

// brief says what went wrong without saying where.
func brief(err error) string {
	var dns *net.DNSError
	var errno syscall.Errno
	switch {
	case errors.As(err, &dns):
		return "dns: " + dns.Err
	case errors.Is(err, os.ErrDeadlineExceeded):
		return "timeout"
	case errors.As(err, &errno):
		return errno.Error()
	}
	return "other"
}

func pick() int {
	at := rand.IntN(100)
	for i, k := range kinds {
		if at -= k.share; at < 0 {
			return i
		}
	}
	return 0
}

func echoTCP(to string) error {
	c, err := quick("tcp", to)
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(5 * time.Second))
	text := strings.Repeat("x", 1+rand.IntN(20000))
	go func() {
		io.WriteString(c, text)
		c.(*net.TCPConn).CloseWrite()
	}()
	got, err := io.ReadAll(c)
	if err == nil && len(got) != len(text) {
		err = fmt.Errorf("%d of %d octets came back", len(got), len(text))
	}
	return err
}

func resetTCP() error {
	c, err := quick("tcp", server.String()+":7")
	if err != nil {
		return err
	}
	c.(*net.TCPConn).SetLinger(0)
	io.WriteString(c, "gone")
	return c.Close()
}

// cutTCP ends a flow by a RST while it carries as much as it can in both directions, and nobody reads what comes back.
func cutTCP() error {
	c, err := quick("tcp", server.String()+":7")
	if err != nil {
		return err
	}
	c.(*net.TCPConn).SetLinger(0)
	c.SetWriteDeadline(time.Now().Add(50 * time.Millisecond))
	for b := make([]byte, 256<<10); err == nil; {
		_, err = c.Write(b)
	}
	return c.Close()
}

// silentTCP connects and says nothing for a while.
func silentTCP() error {
	c, err := quick("tcp", server.String()+":7")
	if err != nil {
		return err
	}
	time.AfterFunc(4*time.Second, func() { c.Close() })
	return nil
}

func expectFailure(network, to string) error {
	c, err := quick(network, to)
	if err != nil {
		return nil
	}
	c.Close()
	return fmt.Errorf("%s answered", to)
}

// datagram sends one, and wants it back when it has a text.
func datagram(to, text string) error {
	c, err := quick("udp", to)
	if err != nil {
		return err
	}
	defer c.Close()
	c.Write([]byte(text + "\n"))
	if text == "" {
		return nil
	}
	c.SetReadDeadline(time.Now().Add(2 * time.Second))
	_, err = c.Read(make([]byte, 100))
	return err
}
