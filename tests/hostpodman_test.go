//go:build linux

package tests

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// podmanHost is a host with podman: a mount namespace beside the network namespace, with storage and networks of its own.
type podmanHost struct {
	*hostNet
	holder *exec.Cmd
	dir    string
}

// podmanLack says what of what containers of podman need this host has not.
func podmanLack() string {
	if os.Geteuid() != 0 {
		return "a root user: rootless podman has its bridges elsewhere"
	}
	for _, program := range []string{"podman", "crun", "nsenter", "unshare", "iptables"} {
		if _, err := exec.LookPath(program); err != nil {
			return program
		}
	}
	if _, err := os.Stat(cniPlugins + "/bridge"); err != nil {
		return "containernetworking-plugins"
	}
	return ""
}

const cniPlugins = "/usr/lib/cni"

func newPodmanHost(t *testing.T) *podmanHost {
	t.Helper()
	switch lack := podmanLack(); {
	case lack == "":
	case os.Getenv("CI") != "" && os.Geteuid() == 0:
		t.Fatalf("this host lacks %s", lack)
	default:
		t.Skipf("this host lacks %s", lack)
	}
	p := &podmanHost{hostNet: newHostNet(t), dir: t.TempDir()}
	// crun 1.8 takes no control groups that are of both versions.
	p.holder = exec.Command("unshare", "-m", "--propagation", "private", "sh", "-c",
		"mount -t tmpfs none /run && { ! [ -d /sys/fs/cgroup/unified ] || mount -t tmpfs none /sys/fs/cgroup/unified; } && echo ready && exec sleep 600")
	stdout, err := p.holder.StdoutPipe()
	if err == nil {
		err = p.in(p.holder.Start)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.podman("rm", "-fa", "-t0")
		p.holder.Process.Kill()
		p.holder.Wait()
		exec.Command("rm", "-rf", p.dir).Run()
	})
	if _, err := stdout.Read(make([]byte, 6)); err != nil {
		t.Fatal("no mount namespace for podman:", err)
	}
	conf := fmt.Sprintf("[network]\nnetwork_backend=\"cni\"\nnetwork_config_dir=%q\ncni_plugin_dirs=[%q]\n[engine]\ncgroup_manager=\"cgroupfs\"\nevents_logger=\"none\"\n"+
		"tmp_dir=%q\n[containers]\ncgroups=\"disabled\"\nlog_driver=\"k8s-file\"\ndefault_ulimits=[\"nofile=1024:1024\",\"nproc=1024:1024\"]\n", p.dir+"/cni", cniPlugins, p.dir+"/tmp")
	image := filepath.Join(p.dir, "image")
	os.MkdirAll(image, 0o755)
	os.MkdirAll(p.dir+"/cni", 0o755)
	program, err := os.ReadFile(filepath.Join(binDir(), "probe"))
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string][]byte{
		p.dir + "/containers.conf": []byte(conf), image + "/probe": program,
		image + "/Containerfile": []byte("FROM scratch\nCOPY probe /probe\nENTRYPOINT [\"/probe\"]\nLABEL weir.app=trusted\n"),
	} {
		if err := os.WriteFile(name, text, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	p.ip("link del br0") // the engine makes one of its own
	p.must("build", "--network", "host", "--isolation", "chroot", "-t", "probe", image)
	p.must("network", "create", "--subnet", fmt.Sprintf("10.99.%d.0/24", p.n), "--subnet", fmt.Sprintf("fd88:%d::/64", p.n), "--ipv6", "weirnet")
	return p
}

// inside is a command in the mount and network namespace of this host.
func (p *podmanHost) inside(args ...string) *exec.Cmd {
	cmd := exec.Command("nsenter", append([]string{"-t", strconv.Itoa(p.holder.Process.Pid), "-m", "-n"}, args...)...)
	cmd.Env = append(os.Environ(), "CONTAINERS_CONF="+p.dir+"/containers.conf", "HOME="+p.dir, "TMPDIR="+p.dir)
	return cmd
}

func (p *podmanHost) podman(args ...string) (string, error) {
	var b bytes.Buffer
	cmd := p.inside(append([]string{"podman", "--root", p.dir + "/store", "--runroot", "/run/store", "--storage-driver", "vfs"}, args...)...)
	cmd.Stdout, cmd.Stderr = &b, &b
	err := cmd.Run()
	return b.String(), err
}

// run starts a container. Its own devpts would belong to a group that the playground has not.
func (p *podmanHost) run(args ...string) string {
	p.t.Helper()
	return p.must(append([]string{"run", "-v", "/dev/pts:/dev/pts", "--network", "weirnet"}, args...)...)
}

func (p *podmanHost) must(args ...string) string {
	p.t.Helper()
	s, err := p.podman(args...)
	if err != nil {
		p.t.Fatalf("podman %v: %v\n%s", args, err, s)
	}
	return strings.TrimSpace(s)
}

// TestHostDoorPodman: containers of a real engine, by their names, under a policy file.
func TestHostDoorPodman(t *testing.T) {
	p := newPodmanHost(t)
	file := filepath.Join(t.TempDir(), "weir.yaml")
	if err := os.WriteFile(file, []byte("version: 1\napps:\n  web:\n    allow: [shop.example, \"keeper:9000\"]\n  trusted:\n    allow: [\"@any:*\"]\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	p.run("-d", "--name", "keeper", "-p", "8080:9000", "probe", "serve", "9000")
	bridge := "cni-podman1"
	before := p.snapshot()
	u := p.up("--bridge", bridge, "-f", file)
	if !strings.Contains(u.status, `"app":"keeper"`) || !strings.Contains(u.status, `"runtime":"podman"`) {
		t.Errorf("it says %s", u.status)
	}

	if got := p.run("--rm", "--name", "web", "probe", "eventually", "get", "http://shop.example/"); !strings.Contains(got, "hello from shop.example") {
		t.Errorf("web gets %q", got)
	}
	u.await("web's flow", func(e hostEvent) bool {
		return e.Event == "network-connect" && e.App == "web" && len(e.Sandbox) == 12 && e.Details.Hostname == "shop.example" && e.Details.Verdict == "allow"
	})
	u.await("web's question", func(e hostEvent) bool {
		return e.Event == "dns-query" && e.App == "web" && e.Details.Hostname == "shop.example"
	})
	u.await("web's end", func(e hostEvent) bool { return e.Event == "sandbox-exit" && e.App == "web" })

	// An image's label is no name: the file says nothing about a container called stranger.
	for _, name := range []string{"keeper", "stranger"} {
		if name == "stranger" {
			p.run("-d", "--name", name, "probe", "serve", "1")
			u.await("the stranger", func(e hostEvent) bool { return e.Event == "sandbox-start" && e.App == name })
		}
		if got, err := p.podman("exec", name, "/probe", "tcp", "198.51.100.20:7", "x"); err == nil || !strings.Contains(got, "ECONNREFUSED") {
			t.Errorf("%s gets %q", name, got)
		}
		u.await(name+"'s denial", func(e hostEvent) bool {
			return e.Event == "network-connect" && e.App == name && e.Details.Verdict == "deny" && e.Details.Dest_IP == tools
		})
	}
	p.must("rm", "-f", "-t0", "stranger")

	var c net.Conn
	err := world.Internet(func() (err error) {
		c, err = net.DialTimeout("tcp", fmt.Sprintf("192.0.%d.2:8080", 100+p.n), patience)
		return err
	})
	if err != nil {
		t.Fatal("published port:", err)
	}
	c.SetDeadline(time.Now().Add(patience))
	c.Write([]byte("published"))
	b := make([]byte, 9)
	if _, err := io.ReadFull(c, b); err != nil || string(b) != "published" {
		t.Errorf("published port: %q, %v", b, err)
	}
	c.Close()
	u.end(syscall.SIGTERM)
	p.unchanged(before)
	if got := p.must("exec", "keeper", "/probe", "tcp", "198.51.100.20:7", "free"); got != "free" {
		t.Errorf("without weir keeper gets %q", got)
	}
}
