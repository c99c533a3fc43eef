//go:build linux

package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/weir-dev/weir/internal/playground"
)

// hosts are the servers' addresses. Each is a process, which may have some 20,000 descriptors, and each is a destination to
// which the host has some 28,000 source ports.
var hosts = []netip.AddrPort{
	netip.MustParseAddrPort("198.51.100.20:7"), netip.MustParseAddrPort("198.51.100.21:7"), netip.MustParseAddrPort("198.51.100.22:7"), netip.MustParseAddrPort("198.51.100.23:7"),
}

// servers are the processes that serve, on the internet.
type servers []*exec.Cmd

func startServers(w *playground.World, self string) (all servers, err error) {
	for _, at := range hosts {
		if err := w.Address(at.Addr()); err != nil {
			return all, err
		}
		cmd := exec.Command(self, "serve", at.String())
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // ^C is for this process, which ends them
		stdin, err := cmd.StdinPipe()
		if err != nil {
			return all, err
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			return all, err
		}
		cmd.Stderr = os.Stderr
		if err := w.Internet(cmd.Start); err != nil {
			return all, fmt.Errorf("start server: %w", err)
		}
		cmd.Cancel = stdin.Close
		all = append(all, cmd)
		if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
			return all, fmt.Errorf("start server: %w", err)
		}
	}
	return all, nil
}

// stop ends the servers by the end of their input.
func (s servers) stop() {
	for _, cmd := range s {
		cmd.Cancel()
		cmd.Wait()
	}
}

// serveMain sends back what it gets on each connection until its input ends.
func serveMain() error {
	ln, err := net.Listen("tcp", os.Args[2])
	if err != nil {
		return err
	}
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				b := make([]byte, len(greeting))
				for {
					n, err := c.Read(b)
					if err != nil {
						return
					}
					if _, err := c.Write(b[:n]); err != nil {
						return
					}
				}
			}()
		}
	}()
	fmt.Println("serving")
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// programMain is the program in a sandbox. Its orders:
//
//	open N      opens N flows more and keeps them: answers how many it has
//	probe N     N flows one after the other, a greeting there and back on each: answers their median in microseconds
//	burst TIME  as many of these as it can for that long: answers how many
func programMain() error {
	runtime.GOMAXPROCS(1) // it is to be small: there are a thousand of it
	p := &program{}
	fmt.Println("ready")
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		var order, arg string
		fmt.Sscan(in.Text(), &order, &arg)
		answer, err := p.obey(order, arg)
		if err != nil {
			return err
		}
		fmt.Println(answer)
	}
	return in.Err()
}

// openers are how many flows are being opened at once.
const openers = 16

type program struct {
	mu   sync.Mutex
	open []net.Conn
	next int // the server whose turn it is
}

func (p *program) obey(order, arg string) (answer any, err error) {
	switch order {
	case "open":
		n := 0
		fmt.Sscan(arg, &n)
		err := p.openMore(n)
		return len(p.open), err
	case "probe":
		n := 0
		fmt.Sscan(arg, &n)
		return p.probe(n)
	case "burst":
		d, err := time.ParseDuration(arg)
		if err != nil {
			return nil, err
		}
		return p.burst(d)
	}
	return nil, fmt.Errorf("unknown order %q", order)
}

func (p *program) server() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.next++
	return hosts[(p.next+os.Getpid())%len(hosts)].String()
}

func (p *program) openMore(n int) error {
	errs := make([]error, openers)
	turns := make(chan struct{})
	var work sync.WaitGroup
	for i := range openers {
		work.Go(func() {
			for range turns {
				c, err := exchange(p.server())
				if err != nil {
					errs[i] = err
					continue
				}
				p.mu.Lock()
				p.open = append(p.open, c)
				p.mu.Unlock()
			}
		})
	}
	for range n {
		turns <- struct{}{}
	}
	close(turns)
	work.Wait()
	return errors.Join(errs...)
}

// greeting is what a flow begins with: no protocol that has names in its first octets, so that nothing more is waited for.
const greeting = "hello, scale\r\n"

// exchange opens a flow and sends a greeting there and back.
func exchange(to string) (net.Conn, error) {
	c, err := net.DialTimeout("tcp", to, 30*time.Second)
	if err != nil {
		return nil, err
	}
	if _, err = io.WriteString(c, greeting); err == nil {
		_, err = io.ReadFull(c, make([]byte, len(greeting)))
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

func (p *program) probe(n int) (micros int64, err error) {
	var took []int64
	for range n {
		start := time.Now()
		c, err := exchange(p.server())
		if err != nil {
			return 0, err
		}
		took = append(took, time.Since(start).Microseconds())
		c.Close()
	}
	slices.Sort(took)
	return took[len(took)/2], nil
}

func (p *program) burst(d time.Duration) (n int, err error) {
	for end := time.Now().Add(d); time.Now().Before(end); n++ {
		c, err := exchange(p.server())
		if err != nil {
			return n, err
		}
		c.Close()
	}
	return n, nil
}
