//go:build linux

package tunnel

import (
	"bytes"
	"net/netip"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// postgresProgram finds a program of Debian's package postgresql, which does not put all of them on the PATH.
func postgresProgram(t *testing.T, name string) string {
	t.Helper()
	if path, err := exec.LookPath(name); err == nil {
		return path
	}
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/" + name)
	if len(found) == 0 {
		t.Skipf("PostgreSQL's %s is not installed (Debian package postgresql)", name)
	}
	slices.Sort(found)
	return found[len(found)-1]
}

// postgres starts a PostgreSQL server on the machine, on this address only, with a table answers that knows who it is. The
// server refuses to be root, so it runs in a user namespace where its user is another one.
func (m *machine) postgres(t *testing.T, at netip.AddrPort, who string) {
	t.Helper()
	initdb, server := postgresProgram(t, "initdb"), postgresProgram(t, "postgres")
	data := filepath.Join(m.dir, "postgres")
	m.asOther(t, initdb, "-D", data, "-U", "app", "--auth=trust", "--no-sync", "--no-instructions", "--encoding=UTF8", "--locale=C")
	rules, err := os.OpenFile(filepath.Join(data, "pg_hba.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	rules.WriteString("host all all 10.0.1.0/24 trust\n")
	rules.Close()
	single := m.other(server, "--single", "-D", data, "postgres")
	single.Stdin = strings.NewReader("create table answers as select '" + who + "'::text as answer\n")
	m.finish(t, single)

	cmd := m.other(server, "-D", data, "-c", "listen_addresses="+at.Addr().String(), "-p", strconv.Itoa(int(at.Port())),
		"-c", "unix_socket_directories=", "-c", "fsync=off", "-c", "shared_buffers=16MB", "-c", "max_connections=20")
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	m.start(t, cmd)
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGQUIT)
		cmd.Wait()
	})
	ready := exec.Command(postgresProgram(t, "pg_isready"), "-q", "-h", at.Addr().String(), "-p", strconv.Itoa(int(at.Port())))
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		again := exec.Command(ready.Path, ready.Args[1:]...)
		m.start(t, again)
		if again.Wait() == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("PostgreSQL does not answer:\n%s", &said)
		}
	}
}

// other is a command as another user: nobody's process may be root's, and the name of the user has to be known.
func (m *machine) other(name string, args ...string) *exec.Cmd {
	uid, gid := 65534, 65534
	if u, err := user.Lookup("postgres"); err == nil {
		uid, _ = strconv.Atoi(u.Uid)
		gid, _ = strconv.Atoi(u.Gid)
	}
	cmd := exec.Command(name, args...)
	cmd.Env = append(m.environ(), "LC_ALL=C", "TZ=UTC")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: uid, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: gid, HostID: os.Getgid(), Size: 1}},
		Pdeathsig:   syscall.SIGKILL,
	}
	return cmd
}

func (m *machine) asOther(t *testing.T, name string, args ...string) {
	t.Helper()
	m.finish(t, m.other(name, args...))
}

// finish runs a command of the machine to its end, which must be a good one.
func (m *machine) finish(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	m.start(t, cmd)
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%s: %v\n%s", filepath.Base(cmd.Path), err, &said)
	}
	return said.String()
}

// TestPostgres: the server that the tunnel is for answers on the laptop's private network.
func TestPostgres(t *testing.T) {
	l := newLab(t, "a")
	p := l.laptops["a"]
	p.office.postgres(t, netip.AddrPortFrom(stagingOf["a"], 5432), "office a")
	got := p.finish(t, exec.Command(postgresProgram(t, "psql"), "-XAt", "postgresql://app@"+staging+"/postgres", "-c", "select answer from answers"))
	if strings.TrimSpace(got) != "office a" {
		t.Errorf("psql on the laptop says %q", got)
	}
}
