package main

import (
	"bufio"
	"encoding/base32"
	"encoding/binary"
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

	"github.com/miekg/dns"
)

// floodWindow is how many questions of one connection wait for their answers at one time.
const floodWindow = 32

// questions asks for one name n times over TCP, where nothing is lost, and prints how many answers of each kind came.
func questions(count, server, name string) error {
	n, err := strconv.Atoi(count)
	if err != nil {
		return err
	}
	raw, err := new(dns.Msg).SetQuestion(dns.Fqdn(name), dns.TypeA).Pack()
	if err != nil {
		return err
	}
	c, err := net.Dial("tcp", server)
	if err != nil {
		return err
	}
	defer c.Close()
	frame := append(binary.BigEndian.AppendUint16(nil, uint16(len(raw))), raw...)
	window := make(chan struct{}, floodWindow)
	go func() {
		for range n {
			window <- struct{}{}
			c.Write(frame)
		}
	}()
	r := bufio.NewReader(c)
	rcodes := map[string]int{}
	for range n {
		var size [2]byte
		if _, err := io.ReadFull(r, size[:]); err != nil {
			return err
		}
		answer := make([]byte, binary.BigEndian.Uint16(size[:]))
		if _, err := io.ReadFull(r, answer); err != nil {
			return err
		}
		rcodes[dns.RcodeToString[int(answer[3]&15)]]++
		<-window
	}
	fmt.Println(n, "answers", rcodes)
	return nil
}

// leak carries as much random data out in names below a suffix as it can in a time, and prints how much was taken.
func leak(server, suffix, seconds string) error {
	s, err := strconv.Atoi(seconds)
	if err != nil {
		return err
	}
	var taken, refused atomic.Int64
	end := time.Now().Add(time.Duration(s) * time.Second)
	var work sync.WaitGroup
	for range 8 {
		work.Go(func() {
			c, err := net.Dial("udp", server)
			if err != nil {
				return
			}
			defer c.Close()
			for time.Now().Before(end) {
				octets := sendOut(c, suffix)
				if octets > 0 {
					taken.Add(int64(octets))
				} else {
					refused.Add(1)
				}
			}
		})
	}
	work.Wait()
	fmt.Printf("%d octets taken, %d questions refused\n", taken.Load(), refused.Load())
	return nil
}

// sendOut sends data in one question and returns how many octets of it were taken.
func sendOut(c net.Conn, suffix string) int {
	data := make([]byte, 110)
	for i := range data {
		data[i] = byte(rand.Uint32())
	}
	text := strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(data))
	name := text[:60] + "." + text[60:120] + "." + text[120:] + "." + suffix
	raw, err := new(dns.Msg).SetQuestion(dns.Fqdn(name), dns.TypeA).Pack()
	if err != nil {
		return 0
	}
	c.Write(raw)
	c.SetReadDeadline(time.Now().Add(time.Second))
	answer := make([]byte, 4096)
	if n, err := c.Read(answer); err != nil || n < 12 || answer[3]&15 == dns.RcodeRefused {
		return 0
	}
	return len(data)
}

// churn makes as many flows as each line of stdin says, of four kinds: carried to an echo server, refused, denied, and a
// question that is denied.
func churn(echo, refused, denied string) error {
	fmt.Println("ready")
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		n, err := strconv.Atoi(in.Text())
		if err != nil {
			return err
		}
		var next, carried atomic.Int64
		var work sync.WaitGroup
		for range 32 {
			work.Go(func() {
				for i := next.Add(1); i <= int64(n); i = next.Add(1) {
					switch i % 4 {
					case 0:
						if echoed(echo, fmt.Sprint("flow ", i)) {
							carried.Add(1)
						}
					case 1, 2:
						if c, err := net.DialTimeout("tcp", []string{refused, denied}[i%2], patience); err == nil {
							c.Close()
						}
					case 3:
						net.LookupHost(fmt.Sprintf("n%d.evil.example", i))
					}
				}
			})
		}
		work.Wait()
		fmt.Println(n, "flows,", carried.Load(), "carried")
	}
	return nil
}

func echoed(address, text string) bool {
	c, err := dial("tcp", address)
	if err != nil {
		return false
	}
	defer c.Close()
	io.WriteString(c, text)
	c.(*net.TCPConn).CloseWrite()
	got, err := io.ReadAll(c)
	return err == nil && string(got) == text
}
