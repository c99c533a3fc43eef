//go:build linux

package tests

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/cgi"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/crypto/ssh"

	"github.com/weir-dev/weir/internal/playground"
)

// codehost is code.example: a repository over HTTPS (443) and SSH (22), by git itself, and a database (5432).
var codehost = netip.MustParseAddr("198.51.100.30")

// sshKey is the user's private key for code.example, of this run.
var sshKey string

func populateCodeHost(w *playground.World) error {
	repository := sync.OnceValues(func() (string, error) { return makeRepository(filepath.Join(w.Dir, "git")) })
	signer, err := makeKey()
	if err != nil {
		return err
	}
	at := func(port uint16) netip.AddrPort { return netip.AddrPortFrom(codehost, port) }
	return errors.Join(
		w.Name("code.example", codehost),
		w.ServeHTTPS(at(443), http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			root, err := repository()
			if err != nil {
				http.Error(rw, err.Error(), http.StatusInternalServerError)
				return
			}
			git, _ := exec.LookPath("git")
			h := cgi.Handler{Path: git, Args: []string{"http-backend"}, Env: []string{"GIT_PROJECT_ROOT=" + root, "GIT_HTTP_EXPORT_ALL=1"}}
			h.ServeHTTP(rw, r)
		})),
		w.Serve(at(22), func(c net.Conn) { serveGitSSH(c, signer, repository) }),
		w.Serve(at(5432), pretendDatabase),
	)
}

// makeRepository returns the directory that has "repo", with one commit of one file.
func makeRepository(root string) (string, error) {
	script := `git init -q repo && cd repo && git config user.email a@b && git config user.name a &&
		echo in the repository >file && git add file && git commit -qm first`
	if err := os.Mkdir(root, 0o755); err != nil {
		return "", err
	}
	cmd := exec.Command("sh", "-c", script)
	cmd.Dir = root
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", errors.New(string(out))
	}
	return root, nil
}

// makeKey makes the host's key and the user's.
func makeKey() (ssh.Signer, error) {
	_, user, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	block, err := ssh.MarshalPrivateKey(user, "")
	if err != nil {
		return nil, err
	}
	sshKey = string(pem.EncodeToMemory(block))
	_, host, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	return ssh.NewSignerFromKey(host)
}

// serveGitSSH lets whoever has a key run git-upload-pack.
func serveGitSSH(c net.Conn, host ssh.Signer, repository func() (string, error)) {
	defer c.Close()
	cfg := &ssh.ServerConfig{PublicKeyCallback: func(ssh.ConnMetadata, ssh.PublicKey) (*ssh.Permissions, error) { return nil, nil }}
	cfg.AddHostKey(host)
	_, channels, requests, err := ssh.NewServerConn(c, cfg)
	if err != nil {
		return
	}
	go ssh.DiscardRequests(requests)
	for wanted := range channels {
		ch, requests, err := wanted.Accept()
		if err != nil {
			return
		}
		for r := range requests {
			r.Reply(r.Type == "exec" || r.Type == "env", nil)
			if r.Type != "exec" || len(r.Payload) < 4 || !strings.HasPrefix(string(r.Payload[4:]), "git-upload-pack ") {
				continue
			}
			status := make([]byte, 4)
			if root, err := repository(); err != nil || uploadPack(ch, root) != nil {
				status[3] = 1
			}
			ch.SendRequest("exit-status", false, status)
			ch.Close()
		}
	}
}

func uploadPack(ch ssh.Channel, root string) error {
	cmd := exec.Command("git", "upload-pack", filepath.Join(root, "repo"))
	cmd.Stdout, cmd.Stderr = ch, ch.Stderr()
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	go func() { // which ends with the channel, not with git
		io.Copy(in, ch)
		in.Close()
	}()
	return cmd.Run()
}

// pretendDatabase speaks as much of PostgreSQL's protocol, version 3.0, as it takes to answer every question with one
// row of one column.
func pretendDatabase(c net.Conn) {
	defer c.Close()
	say := func(kind byte, body string) {
		c.Write(append(binary.BigEndian.AppendUint32([]byte{kind}, uint32(4+len(body))), body...))
	}
	if _, err := readMessage(c); err != nil { // the start-up message has no type
		return
	}
	say('R', "\x00\x00\x00\x00") // authenticated
	say('S', "server_version\x0015.0\x00")
	say('S', "client_encoding\x00UTF8\x00")
	say('Z', "I") // ready
	kind := make([]byte, 1)
	for {
		if _, err := io.ReadFull(c, kind); err != nil {
			return
		}
		if _, err := readMessage(c); err != nil || kind[0] == 'X' {
			return
		}
		say('T', "\x00\x01answer\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x19\xff\xff\xff\xff\xff\xff\x00\x00")
		say('D', "\x00\x01\x00\x00\x00\x09forty-two")
		say('C', "SELECT 1\x00")
		say('Z', "I")
	}
}

// readMessage reads the body of one message, by its length.
func readMessage(c net.Conn) ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(c, head[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n < 4 || n > 1<<16 {
		return nil, errors.New("not a message")
	}
	body := make([]byte, n-4)
	_, err := io.ReadFull(c, body)
	return body, err
}
