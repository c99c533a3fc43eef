//go:build linux

package container

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

const (
	idA = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	idB = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
)

func TestCgroup(t *testing.T) {
	for _, c := range []struct {
		name, file string
		want       claim
	}{
		{"podman, systemd", "0::/machine.slice/libpod-" + idA + ".scope/container\n", claim{RuntimePodman, idA}},
		{"podman, cgroupfs", "0::/libpod_parent/libpod-" + idA + "\n", claim{RuntimePodman, idA}},
		{"podman, a pod", "0::/machine.slice/machine-libpod_pod_" + idB + ".slice/libpod-" + idA + ".scope\n", claim{RuntimePodman, idA}},
		{"podman, version 1", "4:memory:/libpod_parent/libpod-" + idA + "\n1:cpu:/libpod_parent/libpod-" + idA + "\n", claim{RuntimePodman, idA}},
		{"conmon is no container", "0::/machine.slice/libpod-conmon-" + idA + ".scope\n", claim{}},
		{"docker, systemd", "0::/system.slice/docker-" + idA + ".scope\n", claim{RuntimeDocker, idA}},
		{"docker, cgroupfs", "0::/docker/" + idA + "\n", claim{RuntimeDocker, idA}},
		{"docker in docker", "0::/docker/" + idA + "/docker/" + idB + "\n", claim{RuntimeDocker, idA}},
		{"a name that the container chose", "0::/machine.slice/libpod-" + idA + ".scope/libpod-" + idB + ".scope\n", claim{RuntimePodman, idA}},
		{"another engine's, that the container chose", "0::/docker/" + idA + "/libpod-" + idB + ".scope\n", claim{RuntimeDocker, idA}},
		{"a pod that the container chose", "0::/docker/" + idA + "/kubepods/burstable/" + idB + "\n", claim{RuntimeDocker, idA}},
		{"nerdctl, systemd", "0::/system.slice/nerdctl-" + idA + ".scope\n", claim{RuntimeContainerd, idA}},
		{"nerdctl, cgroupfs", "0::/default/" + idA + "\n", claim{RuntimeContainerd, idA}},
		{"kubernetes, containerd", "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1.slice/cri-containerd-" + idA + ".scope\n", claim{RuntimeKubernetes, idA}},
		{"kubernetes, CRI-O", "0::/kubepods.slice/kubepods-pod1.slice/crio-" + idA + ".scope/container\n", claim{RuntimeKubernetes, idA}},
		{"kubernetes, cgroupfs", "0::/kubepods/besteffort/pod1/" + idA + "\n", claim{RuntimeKubernetes, idA}},
		{"kubernetes, docker", "0::/kubepods.slice/kubepods-pod1.slice/docker-" + idA + ".scope\n", claim{RuntimeKubernetes, idA}},
		{"kubernetes, runc without systemd", "0::/system.slice/containerd.service/kubepods-burstable-pod1.slice:cri-containerd:" + idA + "\n", claim{RuntimeKubernetes, idA}},
		{"lines of two containers", "2:a:/docker/" + idA + "\n1:b:/docker/" + idB + "\n", claim{}},
		{"a login", "0::/user.slice/user-1000.slice/session-3.scope\n", claim{}},
		{"an id at the top", "0::/" + idA + "\n", claim{}},
		{"upper case", "0::/docker/" + strings.ToUpper(idA) + "\n", claim{}},
		{"too long", "0::/docker/" + idA + "0\n", claim{}},
		{"nothing", "", claim{}},
	} {
		if got, ok := parseCgroup([]byte(c.file)); got != c.want || ok != (c.want != claim{}) {
			t.Errorf("%s: %v, %v, want %v", c.name, got, ok, c.want)
		}
	}
}

// TestRecorded has the engines' files as they write them, below another root directory.
func TestRecorded(t *testing.T) {
	root := t.TempDir()
	write := func(path, content string) {
		t.Helper()
		path = filepath.Join(root, path)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	task := "run/containerd/io.containerd.runtime.v2.task/"
	write("var/lib/docker/containers/"+idA+"/config.v2.json", `{"ID":"`+idA+`","Name":"/web","State":{"Pid":7},"Config":{"Image":"nginx:1","Labels":{"team":"blue","evil":"\u001b[2J"}}}`)
	write("var/lib/docker/containers/"+idB+"/config.v2.json", `{"ID":"`+idA+`","Name":"/web"}`)
	write("var/lib/containers/storage/overlay-containers/containers.json", `[{"id":"`+idB+`","names":["db"],"metadata":""},{"id":"`+idA+`","names":["cache"],"metadata":"{\"image-name\":\"localhost/redis\",\"name\":\"cache\"}"}]`)
	write("var/lib/containers/storage/overlay-containers/"+idA+"/userdata/config.json", `{"annotations":{"io.container.manager":"libpod"}}`)
	write(task+"default/"+idA+"/config.json", `{"annotations":{"nerdctl/name":"api","nerdctl/namespace":"default"}}`)
	write(task+"k8s.io/"+idB+"/config.json", `{"annotations":{"io.kubernetes.cri.sandbox-name":"pod-0","io.kubernetes.cri.sandbox-namespace":"shop","io.kubernetes.cri.image-name":"x"}}`)
	f := open(t, root)
	for _, c := range []struct {
		runtime, id, name, image, label string
		complete                        bool
	}{
		{RuntimeDocker, idA, "web", "nginx:1", "team=blue", true},
		{RuntimeDocker, idB, "", "", "", false}, // another one's file
		{RuntimePodman, idA, "cache", "localhost/redis", "io.container.manager=libpod", true},
		{RuntimePodman, idB, "db", "", "", true},
		{RuntimeContainerd, idA, "api", "", "nerdctl/name=api", true},
		{RuntimeKubernetes, idB, "shop.pod-0", "x", "io.kubernetes.cri.sandbox-name=pod-0", true},
		{RuntimePodman, strings.Repeat("c", 64), "", "", "", false},
	} {
		who, complete := f.recorded(claim{c.runtime, c.id}, conmon{})
		key, value, _ := strings.Cut(c.label, "=")
		if who.name != c.name || who.image != c.image || who.labels[key] != value || complete != c.complete || who.labels["evil"] != "" {
			t.Errorf("%s %.4s: %+v, %v", c.runtime, c.id, who, complete)
		}
	}
	if who, ok := f.recorded(claim{RuntimePodman, idA}, conmon{id: idA, name: "told", bundle: "/nowhere/overlay-containers/" + idA + "/userdata"}); ok || who.name != "told" {
		t.Errorf("where the storage cannot be read: %+v", who)
	}
}

// TestConmon: what the parent of the first process was told is believed if it is podman's monitor and no other program.
func TestConmon(t *testing.T) {
	storage := filepath.Join(t.TempDir(), "overlay-containers")
	if err := errors.Join(os.MkdirAll(storage, 0o755), os.WriteFile(filepath.Join(storage, "containers.json"),
		[]byte(`[{"id":"`+idA+`","names":["mine"],"metadata":"{\"image-name\":\"i\",\"name\":\"mine\"}"}]`), 0o600)); err != nil {
		t.Fatal(err)
	}
	args := []string{"-c", idA, "-n", "told", "-b", storage + "/" + idA + "/userdata", "--exit-command-arg", "-c", idB}
	newBridge(t, "br0")
	f := open(t, t.TempDir())

	real := newMonitored(t, "conmon", args...)
	real.plug(t, "br0", "porta", "10.9.0.2/24")
	if c := list(t, f, "br0")["porta"]; c.Runtime != RuntimePodman || c.ID != idA || c.Name != "mine" || c.Image != "i" {
		t.Errorf("behind a conmon: %#v, %v", c, c.Err)
	}
	false1 := newMonitored(t, "notconmon", args...)
	false1.plug(t, "br0", "portb", "10.9.0.3/24")
	if c := list(t, f, "br0")["portb"]; c.Runtime != RuntimeNone {
		t.Errorf("behind a program that calls itself conmon: %#v", c)
	}
	false2 := newMonitored(t, "conmon", "-c", "../../etc", "-n", "x")
	false2.plug(t, "br0", "portc", "10.9.0.4/24")
	if c := list(t, f, "br0")["portc"]; c.Runtime != RuntimeNone {
		t.Errorf("behind a conmon without an id: %#v", c)
	}
}

// TestControlGroup moves a box to a group that is named as an engine names it.
func TestControlGroup(t *testing.T) {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	var top string
	for line := range strings.Lines(string(mounts)) {
		if _, after, ok := strings.Cut(line, " - "); ok && strings.HasPrefix(after, "cgroup2 ") {
			top = strings.Fields(line)[4]
		}
	}
	dir := filepath.Join(top, "libpod-"+idA+".scope")
	if err := os.Mkdir(dir, 0o755); top == "" || err != nil {
		t.Skipf("this user may not make a control group of version 2: %v", err)
	}
	inner := filepath.Join(dir, "docker-"+idB+".scope") // what the container might make
	if err := os.Mkdir(inner, 0o755); err != nil {
		t.Fatal(err)
	}
	box := newMonitored(t, "conmon", "-c", idB, "-n", "x")
	t.Cleanup(func() { box.stop(); os.Remove(inner); os.Remove(dir) })
	if err := os.WriteFile(filepath.Join(inner, "cgroup.procs"), []byte(itoa(box.pid)), 0); err != nil {
		t.Skipf("this user may not move a process to another control group: %v", err)
	}
	newBridge(t, "br0")
	box.plug(t, "br0", "porta", "10.9.0.2/24")
	f := open(t, t.TempDir())
	if c := list(t, f, "br0")["porta"]; !errors.Is(c.Err, ErrUnknown) {
		t.Errorf("with a conmon that says something else: %#v", c)
	}
	plain := newBox(t, "")
	t.Cleanup(plain.stop)
	if err := os.WriteFile(filepath.Join(inner, "cgroup.procs"), []byte(itoa(plain.pid)), 0); err != nil {
		t.Fatal(err)
	}
	plain.plug(t, "br0", "portb", "10.9.0.3/24")
	if c := list(t, f, "br0")["portb"]; c.Runtime != RuntimePodman || c.ID != idA || c.Name != idA[:12] {
		t.Errorf("in the group of a container: %#v, %v", c, c.Err)
	}
}

// TestResolvConf: the file belongs to the container, which may have made anything of it.
func TestResolvConf(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(outside, []byte("nameserver 203.0.113.99\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	file := func(text string) func(string) error {
		return func(path string) error { return os.WriteFile(path, []byte(text), 0o644) }
	}
	link := func(to string) func(string) error { return func(path string) error { return os.Symlink(to, path) } }
	for _, c := range []struct {
		name string
		make func(path string) error
		want []netip.Addr
	}{
		{"a file", file("# by docker\nsearch example\nnameserver 127.0.0.11\noptions ndots:0\n"), addrs("127.0.0.11")},
		{"two", file("nameserver 198.51.100.53\nnameserver fd00::53\nnameserver x\n"), addrs("198.51.100.53", "fd00::53")},
		{"mapped", file("nameserver ::ffff:198.51.100.53\n"), addrs("198.51.100.53")},
		{"a link inside", link("/run/resolv.conf"), addrs("192.0.2.53")},
		{"a relative link inside", link("../run/resolv.conf"), addrs("192.0.2.53")},
		{"a link out", link(outside), nil},
		{"a link up and out", link("../../../../../../../.." + outside), nil},
		{"a link to itself", link("resolv.conf"), nil},
		{"a pipe", func(p string) error { return unix.Mkfifo(p, 0o644) }, nil},
		{"a pipe with something in it", func(p string) error {
			err := unix.Mkfifo(p, 0o644)
			f, err2 := os.OpenFile(p, os.O_RDWR, 0)
			if err := errors.Join(err, err2); err != nil {
				return err
			}
			t.Cleanup(func() { f.Close() })
			_, err = f.WriteString("nameserver 203.0.113.99\n")
			return err
		}, nil},
		{"a directory", func(p string) error { return os.Mkdir(p, 0o755) }, nil},
		{"a socket", func(p string) error { return unix.Mknod(p, unix.S_IFSOCK|0o644, 0) }, nil},
		{"nothing", func(string) error { return nil }, nil},
		{"many", file(strings.Repeat("nameserver 192.0.2.1\n", 1<<16)), slices.Repeat(addrs("192.0.2.1"), maxResolvers)},
	} {
		t.Run(c.name, func(t *testing.T) {
			root := t.TempDir()
			if err := errors.Join(os.Mkdir(root+"/etc", 0o755), os.Mkdir(root+"/run", 0o755),
				os.WriteFile(root+"/run/resolv.conf", []byte("nameserver 192.0.2.53\n"), 0o644), c.make(root+"/etc/resolv.conf")); err != nil {
				t.Fatal(err)
			}
			box := newBox(t, root)
			got, err := open(t, t.TempDir()).Namespace(fmt.Sprintf("/proc/%d/ns/net", box.pid))
			if err != nil || !slices.Equal(got.Resolvers, c.want) {
				t.Errorf("%v, %v, want %v", got.Resolvers, err, c.want)
			}
		})
	}
}

// TestFilesThatNeverAnswer: reads that hang are not waited for, and after some no more are begun.
func TestFilesThatNeverAnswer(t *testing.T) {
	w := make(waiting, maxWaiting)
	for range maxWaiting {
		w <- struct{}{}
	}
	box := newBox(t, "")
	p, err := openProcess(box.pid)
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()
	if got := w.resolvers(p); got != nil {
		t.Errorf("with %d reads under way: %v", maxWaiting, got)
	}
	<-w
	if got := w.resolvers(p); got == nil {
		t.Error("with one less: none")
	}
}

func TestApp(t *testing.T) {
	seen := map[string]string{}
	for _, name := range []string{"web", "web-1", "a.b_c", "/web", "we b", "we-b", "we\x1bb", "-web", "", "...", "münchen", strings.Repeat("x", 64), strings.Repeat("x", 65), strings.Repeat("x", 66)} {
		app := Container{Name: name}.App()
		if len(app) == 0 || len(app) > maxApp || strings.Trim(app, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") != "" || strings.Trim(app[:1], "._-") == "" {
			t.Errorf("%q is app %q", name, app)
		}
		if other, ok := seen[app]; ok {
			t.Errorf("%q and %q are one app, %q", name, other, app)
		}
		seen[app] = name
	}
	if app := (Container{Name: "web"}).App(); app != "web" {
		t.Errorf("web is app %q", app)
	}
}
