//go:build linux

package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// generated is a file of /etc that is ours.
type generated struct {
	name     string
	content  []byte
	required bool
}

// writeEtc puts the generated files in place of the host's. /etc itself stays the host's, read-only.
func (r root) writeEtc(o orders, passwd []byte) error {
	spec := o.Spec
	files := []generated{
		{"/etc/resolv.conf", resolvConf(spec), true},
		{"/etc/hosts", hostsFile(spec), true},
		{"/etc/hostname", []byte(spec.Hostname + "\n"), false},
		{"/etc/nsswitch.conf", r.nsswitch(), false},
		{"/etc/passwd", passwd, false},
	}
	if spec.isEngine() {
		own := o.owner()
		for name, content := range map[string][]byte{"/etc/subuid": o.subIDs(spec.SubUIDs, own.uid), "/etc/subgid": o.subIDs(spec.SubGIDs, own.gid)} {
			files = append(files, generated{name, content, true})
		}
	}
	for _, f := range files {
		if f.content == nil {
			continue
		}
		err := r.place(f.name, f.content)
		if err != nil && (f.required || !errors.Is(err, fs.ErrNotExist)) {
			return err
		}
	}
	return nil
}

// place makes name hold content: by a read-only cover where there is a file, else by a new file where its symbolic link
// leads (resolv.conf often leads to /run, which is empty here).
func (r root) place(name string, content []byte) error {
	err := r.coverContent(name, content)
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	target, err := r.follow(name)
	if err != nil {
		return err
	}
	return r.replaceFile(target, content, 0o644)
}

// follow resolves the symbolic links of name's last component, where the end need not exist.
func (r root) follow(name string) (string, error) {
	const maxLinks = 40
	for range maxLinks {
		buf := make([]byte, unix.PathMax)
		fd, err := r.resolve(name, unix.O_PATH|unix.O_NOFOLLOW)
		if err == unix.ENOENT {
			return name, nil
		}
		if err != nil {
			return "", &SetupError{Step: StepWrite, Path: name, Err: err}
		}
		n, err := unix.Readlinkat(fd, "", buf)
		unix.Close(fd)
		if err != nil {
			return "", &SetupError{Step: StepWrite, Path: name, Err: err}
		}
		to := string(buf[:n])
		if !path.IsAbs(to) {
			to = path.Join(path.Dir(name), to)
		}
		name = to
	}
	return "", &SetupError{Step: StepWrite, Path: name, Err: unix.ELOOP}
}

// coverContent mounts content, read-only, over the file that name leads to.
func (r root) coverContent(name string, content []byte) error {
	at, err := r.resolve(name, unix.O_PATH)
	if err != nil {
		return &SetupError{Step: StepWrite, Path: name, Err: err}
	}
	t, err := r.stageFile(content)
	if err != nil {
		unix.Close(at)
		return err
	}
	return t.attach(at, name)
}

// writeFiles puts Spec.Files in place: written where CMD may write too, so that tools can change them, else as a cover.
func (r root) writeFiles(spec Spec) error {
	for _, name := range slices.Sorted(maps.Keys(spec.Files)) {
		err := r.replaceFile(name, spec.Files[name], 0o600)
		if errors.Is(err, unix.EROFS) || errors.Is(err, unix.EACCES) {
			err = r.place(name, spec.Files[name])
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func resolvConf(spec Spec) []byte {
	var b strings.Builder
	for _, ns := range spec.Nameservers {
		fmt.Fprintf(&b, "nameserver %s\n", ns)
	}
	if len(spec.Search) > 0 {
		fmt.Fprintf(&b, "search %s\n", strings.Join(spec.Search, " "))
	}
	if len(spec.ResolvOptions) > 0 {
		fmt.Fprintf(&b, "options %s\n", strings.Join(spec.ResolvOptions, " "))
	}
	return []byte(b.String())
}

func hostsFile(spec Spec) []byte {
	var b strings.Builder
	fmt.Fprintf(&b, "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n%s\t%s\n", spec.Addr4, spec.Hostname)
	for _, h := range spec.Hosts {
		fmt.Fprintf(&b, "%s\t%s\n", h.Addr, h.Name)
	}
	return []byte(b.String())
}

// nsswitch is the host's file with name resolution by files and DNS only: the daemons behind the other modules are not
// reachable, and some modules wait for them. nil when there is none.
func (r root) nsswitch() []byte {
	fd, err := r.resolve("/etc/nsswitch.conf", unix.O_RDONLY)
	if err != nil {
		return nil
	}
	f := os.NewFile(uintptr(fd), "nsswitch.conf")
	defer f.Close()
	var b strings.Builder
	for line := range lines(f) {
		if strings.HasPrefix(strings.TrimSpace(line), "hosts:") {
			line = "hosts: files dns"
		}
		b.WriteString(line + "\n")
	}
	return []byte(b.String())
}

// passwdWith is the host's passwd file with a line for the calling user, who may come from a directory service that
// cannot be asked inside. nil when the user has a line, or there is no such file.
func passwdWith(home string, own owner) []byte {
	f, err := os.Open("/etc/passwd")
	if err != nil {
		return nil
	}
	defer f.Close()
	uid := fmt.Sprint(own.uid)
	var b strings.Builder
	for line := range lines(f) {
		if fields := strings.Split(line, ":"); len(fields) > 2 && fields[2] == uid {
			return nil
		}
		b.WriteString(line + "\n")
	}
	fmt.Fprintf(&b, "user:x:%s:%d:user:%s:/bin/sh\n", uid, own.gid, home)
	return []byte(b.String())
}
