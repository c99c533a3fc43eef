//go:build linux

package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/weir-dev/weir/flow/event"
)

// identify finds out what runs, and refuses what is not what was asked for: numbers under a wrong name are worse than none.
func (r *running) identify() error {
	name, err := r.look(r)
	if err != nil {
		return fmt.Errorf("find out what runs: %w", err)
	}
	if name != r.asked {
		return fmt.Errorf("%s was asked for, but %s runs", r.asked, event.Escape(name))
	}
	inside, err := r.clientNamespace()
	if err != nil {
		return fmt.Errorf("find out what runs: %w", err)
	}
	ours, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		return fmt.Errorf("find out what runs: %w", err)
	}
	if (inside == ours) != (name == "host") {
		return fmt.Errorf("%s: the client's network namespace is %s, the host's is %s", name, inside, ours)
	}
	r.Name = name
	return nil
}

// clientNamespace is the network namespace of the client, as the kernel tells it.
func (r *running) clientNamespace() (string, error) {
	for _, p := range r.processes() {
		if p.name == clientName {
			return os.Readlink(fmt.Sprintf("/proc/%d/ns/net", p.pid))
		}
	}
	return "", errors.New("no client among its processes")
}

func lookHost(r *running) (string, error) {
	if len(r.carriers()) > 0 {
		return "", errors.New("there are processes beside the client")
	}
	return "host", nil
}

// lookProcess is for what has no way of telling: the name of the program that runs beside the client.
func lookProcess(r *running) (string, error) {
	for _, p := range r.carriers() {
		name, _, _ := strings.Cut(p.name, ".") // passt.avx2
		for _, k := range peerKinds {
			if name == k.program || name == k.also {
				return k.program, nil
			}
		}
	}
	return "", errors.New("no such program among its processes")
}

// lookRootlesskit asks its API which network driver it has.
func lookRootlesskit(r *running) (string, error) {
	client := &http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(r.dir, "rk", "api.sock"))
		}}}
	resp, err := client.Get("http://rootlesskit/v1/info")
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	var info struct{ NetworkDriver struct{ Driver string } }
	if err := json.NewDecoder(io.LimitReader(resp.Body, answerMost)).Decode(&info); err != nil {
		return "", err
	}
	return info.NetworkDriver.Driver, nil
}

// lookWeir reads the door and the link from the event log.
func lookWeir(r *running) (string, error) {
	book, err := readBook(r.dir)
	if err != nil {
		return "", err
	}
	r.Link = book.link
	return book.door, nil
}

// book is what an event log says of a run.
type book struct {
	door, link string
	connects   int // flows, with those that were suppressed for being too many a second
}

// readBook reads the log in dir, and what was rotated away from it.
func readBook(dir string) (book, error) {
	files, err := filepath.Glob(filepath.Join(dir, eventsFile+"*"))
	if err == nil && len(files) == 0 {
		err = os.ErrNotExist
	}
	var b book
	for _, f := range files {
		text, readErr := os.ReadFile(f)
		err = errors.Join(err, readErr, b.read(text))
	}
	if err != nil {
		return book{}, fmt.Errorf("read events: %w", err)
	}
	return b, nil
}

// read adds the lines of a log.
func (b *book) read(text []byte) error {
	for line := range bytes.Lines(text) {
		if bytes.Contains(line, []byte(`"event":"network-connect"`)) { // most lines; nothing of them but their number matters
			b.connects++
			continue
		}
		if !bytes.Contains(line, []byte(`"sandbox-start"`)) && !bytes.Contains(line, []byte(`"events-suppressed"`)) {
			continue
		}
		e, err := event.Parse(line)
		if err != nil {
			return err
		}
		switch d := e.Details.(type) {
		case *event.SandboxStart:
			b.door, b.link = d.Door, d.Link
		case *event.Dropped:
			for _, k := range d.ByKind {
				if k.Kind == event.KindConnect {
					b.connects += int(k.Count)
				}
			}
		}
	}
	return nil
}
