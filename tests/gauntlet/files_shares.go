//go:build linux

package gauntlet

import (
	"context"
	"errors"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// readOnlyRows are ways to write where a share may only be read.
func readOnlyRows() []Row {
	readOnly := func(s *Stage) error {
		dir, err := s.dirs("other", "share")
		s.Args["share"], s.Args["other"] = dir, s.Dir+"/other"
		s.Flags = []string{"--share", dir + ":ro", "--share", s.Args["other"]}
		return errors.Join(err, os.WriteFile(dir+"/file", []byte("of the host\n"), 0o644))
	}
	changed := func(s *Stage) bool { return hasToken(s, s.Args["share"]+"/file") }
	return []Row{
		{
			ID: "files/read-only-share", Vector: "write to a file of a read-only share", Right: "it is read-only",
			Prepare: readOnly, Harm: changed,
			Attack: func(a *Attacker) error { return a.overwrite(a.Args["share"]+"/file", os.O_TRUNC) },
		},
		{
			ID: "files/reopened-descriptor", Vector: "open a file of a read-only share, then the descriptor again for writing", Right: "the mount is read-only, whatever the way to it",
			Prepare: readOnly, Harm: changed,
			Attack: func(a *Attacker) error {
				fd, err := unix.Open(a.Args["share"]+"/file", unix.O_PATH|unix.O_CLOEXEC, 0)
				if err != nil {
					return err
				}
				return a.overwrite(descriptorPath(fd), os.O_TRUNC)
			},
		},
		{
			ID: "files/remount", Vector: "make a read-only share writable by remounting it", Right: "the call is refused, and the flag is locked",
			Privileged: true, Harm: changed,
			Prepare: func(s *Stage) error {
				if err := readOnly(s); err != nil {
					return err
				}
				share := s.Args["share"]
				return errors.Join(s.mount(share, share, "", unix.MS_BIND), unix.Mount("", share, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""))
			},
			Attack: func(a *Attacker) error {
				if err := unix.Mount("", a.Args["share"], "", unix.MS_REMOUNT|unix.MS_BIND, ""); err != nil {
					return err
				}
				return a.overwrite(a.Args["share"]+"/file", os.O_TRUNC)
			},
		},
		{
			ID: "files/hard-link", Vector: "link a file of a read-only share into a writable one and write there", Right: "no link leads from one share to another",
			Prepare: readOnly, Harm: changed,
			Attack: func(a *Attacker) error {
				link := a.Args["other"] + "/link"
				if err := os.Link(a.Args["share"]+"/file", link); err != nil {
					return err
				}
				return a.overwrite(link, os.O_TRUNC)
			},
		},
	}
}

// boundaryRows are ways to more than a share shows.
func boundaryRows() []Row {
	outside := func(s *Stage) error {
		dir, err := s.dirs("share/sub")
		s.Args["share"] = filepath.Dir(dir)
		s.Flags = []string{"--share", s.Args["share"]}
		return errors.Join(err, prepareSecret(s))
	}
	return []Row{
		{
			ID: "files/symbolic-link", Vector: "read a file outside through a symbolic link in a share", Right: "the link leads nowhere",
			Source:  "CVE-2018-15664 (docker cp) and its kin",
			Prepare: outside,
			Attack: func(a *Attacker) error {
				link := a.Args["share"] + "/link"
				if err := os.Symlink(a.Args["path"], link); err != nil {
					return err
				}
				return a.read(link)
			},
		},
		{
			ID: "files/dot-dot", Vector: "go up from an open directory of a share", Right: "above the share there is nothing of the host's",
			Prepare: outside,
			Attack: func(a *Attacker) error {
				dir, err := unix.Open(a.Args["share"]+"/sub", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
				if err != nil {
					return err
				}
				return a.readAt(dir, "../../secret")
			},
		},
		{
			ID: "files/moved-directory", Vector: "go up from a directory that the host moves out of the share meanwhile", Right: "what is outside of the share has no parent inside",
			Source:  "CVE-2015-2925 (double-chroot)",
			Prepare: outside,
			During: func(ctx context.Context, s *Stage) {
				share := s.Args["share"]
				soon(func() bool { return ctx.Err() != nil || exists(share+"/opened") })
				os.Rename(share+"/sub", s.Dir+"/moved")
				os.WriteFile(share+"/moved", nil, 0o644)
			},
			Attack: func(a *Attacker) error {
				share := a.Args["share"]
				dir, err := unix.Open(share+"/sub", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
				if err == nil {
					err = os.WriteFile(share+"/opened", nil, 0o644)
				}
				if err != nil {
					return err
				}
				soon(func() bool { return exists(share + "/moved") })
				return a.readAt(dir, "../secret")
			},
		},
		{
			ID: "files/device-in-share", Vector: "open a device that lies in a share", Right: "devices in shares are dead",
			Prepare: func(s *Stage) error {
				dir, err := s.dirs("share")
				device := dir + "/device"
				s.Args["path"], s.Flags = device, []string{"--share", dir}
				return errors.Join(err, os.WriteFile(device, nil, 0o666), s.mount("/dev/zero", device, "", unix.MS_BIND))
			},
			Attack: func(a *Attacker) error {
				f, err := os.Open(a.Args["path"])
				if err != nil {
					return err
				}
				defer f.Close()
				_, err = f.Read(make([]byte, 1))
				return err
			},
		},
	}
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
