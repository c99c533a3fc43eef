//go:build linux

package container

import (
	"strings"
	"testing"
)

func FuzzCgroup(f *testing.F) {
	for _, s := range []string{"0::/machine.slice/libpod-" + idA + ".scope/container\n", "0::/docker/" + idA + "/docker/" + idB, "1:a,b:/kubepods/pod1/" + idA, "0::/a:cri-containerd:" + idA, "::::", "\n"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		c, ok := parseCgroup(b)
		if ok != containerID(c.id) || ok && !strings.Contains(string(b), c.id) {
			t.Errorf("%+v, %v", c, ok)
		}
		// Whatever the container makes below its own group changes nothing.
		if own := "0::/docker/" + idA; ok && !strings.ContainsAny(string(b), "\n") {
			if c, ok := parseCgroup([]byte(own + "/" + string(b))); !ok || c != (claim{RuntimeDocker, idA}) {
				t.Errorf("below another container: %+v, %v", c, ok)
			}
		}
	})
}

func FuzzEngineFiles(f *testing.F) {
	f.Add([]byte(`{"ID":"` + idA + `","Name":"/web","Config":{"Image":"nginx:1","Labels":{"team":"blue","x":"\u001b"}}}`))
	f.Add([]byte(`[{"id":"` + idA + `","names":["cache"],"metadata":"{\"image-name\":\"i\",\"name\":\"cache\"}"}]`))
	f.Add([]byte(`{"annotations":{"nerdctl/name":"api","io.kubernetes.pod.name":"p","io.kubernetes.pod.namespace":"n"}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		docker, _ := parseDocker(b, idA)
		name, image, _ := parsePodman(b, idA)
		oci, _ := named(parseSpec(b))
		for _, s := range []string{docker.name, docker.image, name, image, oci.image} {
			if len(s) > maxText || printable(s, maxText) != s {
				t.Errorf("%q", s)
			}
		}
		for _, labels := range []map[string]string{docker.labels, oci.labels} {
			if len(labels) > maxLabels {
				t.Errorf("%d labels", len(labels))
			}
		}
		if app := appName(oci.name); len(app) > maxApp || app == "" {
			t.Errorf("app %q", app)
		}
	})
}

func FuzzResolvConf(f *testing.F) {
	f.Add([]byte("# c\nsearch a\nnameserver 127.0.0.11\nnameserver fe80::1%eth0\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		list := parseResolvConf(b)
		if len(list) > maxResolvers {
			t.Errorf("%d servers", len(list))
		}
		for _, a := range list {
			if !a.IsValid() || a.Is4In6() {
				t.Errorf("%v", a)
			}
		}
	})
}

func FuzzProc(f *testing.F) {
	f.Add([]byte("1 (a) b) S 7 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 123 1 1"), []byte("1 2 0:4 net:[4026532000] /run/netns/a\\040b rw shared:1 - nsfs nsfs rw\n"), idA)
	f.Fuzz(func(t *testing.T, stat, mounts []byte, arg string) {
		parseStat(stat)
		for inode, path := range mountedNamespaces(mounts) {
			if path == "" {
				t.Errorf("namespace %d without a path", inode)
			}
		}
		if c, ok := parseConmon([]string{"conmon", "-n", arg, "-c", arg}); ok != containerID(arg) || c.id != arg {
			t.Errorf("%+v", c)
		}
	})
}

func TestProcFiles(t *testing.T) {
	parent, started, ok := parseStat([]byte("1 (a) R 9 (b) S 7 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 123 1 1"))
	if parent != 7 || started != 123 || !ok {
		t.Errorf("stat: %d, %d, %v", parent, started, ok)
	}
	if _, _, ok := parseStat([]byte("1 (a) Z 7 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 123 1 1")); ok {
		t.Error("a process that has ended is one")
	}
	got := mountedNamespaces([]byte("1 2 0:4 net:[5] /run/netns/b rw - nsfs nsfs rw\n1 2 0:4 net:[5] /run/netns/a\\040c rw shared:1 - nsfs nsfs rw\n" +
		"1 2 0:4 mnt:[6] /run/x rw - nsfs nsfs rw\n1 2 0:4 net:[7] /run/y rw - ext4 ext4 rw\n1 2 0:4 / /run/z rw - tmpfs t rw\n"))
	if len(got) != 1 || got[5] != "/run/netns/a c" {
		t.Errorf("mounts: %v", got)
	}
}
