//go:build linux

// Package sandbox makes the walls: it runs a program in namespaces of its own, as the calling user and without any
// capability, and hands the host's end of the program's only network link to the caller. It needs no privilege, no
// helper binary and no cgo; it needs Linux 5.12 and a host that lets this user make user namespaces.
//
// # Theory of operation
//
// Three processes take part. The launcher (the caller of [Start]) clones init, which is the same binary executed again
// under another name, into new user, mount, pid, network, ipc, uts and cgroup namespaces. Init has capabilities over
// these namespaces and nothing else. It builds, passes descriptors out, waits for [Sandbox.Release], gives everything up
// and executes CMD; then it is PID 1: it reaps, it forwards signals, and when CMD ends it ends, and the kernel kills
// what is left.
//
//	launcher                      init (PID 1 inside)                          CMD
//	clone ----------------------> close what was inherited
//	                              /proc, kernel settings, link, addresses
//	                              new root, pivot_root
//	ready, descriptors <--------- SCM_RIGHTS
//	go -------------------------> drop capabilities, no_new_privs, ... ------> execve
//	started <--------------------
//	signal ---------------------> kill ---------------------------------------> handler
//	exit status <---------------- wait4 <-------------------------------------- exit
//
// Launcher and init share one SOCK_SEQPACKET pair. It is also the lifeline: when the launcher's end closes, init exits;
// when the launcher's thread dies, PDEATHSIG kills init; when init dies, nothing inside survives.
//
// The link is made inside, so that it is the namespace's own: a TAP, or where there is no TUN device a veth pair whose
// other end lies in a second, empty namespace behind an AF_PACKET socket. Either way the caller gets one descriptor that
// carries Ethernet frames behind a virtio_net_hdr. Routes and neighbours are fixed; no frame is sent unasked.
//
// # File systems
//
// FS "private" is a new root in memory. The system directories (/usr, /bin, /lib*, /sbin, /etc, /opt, /nix ...) are the
// host's, read-only; the home is a directory kept by the caller; /tmp, /var/tmp, /run, /dev, /dev/shm, /proc and /sys
// are new; shares and tool trees are where the caller says; nothing else exists. Called by root, it also hides what of
// /etc only root may read.
//
// FS "host" is the host's tree as the user sees it, writable where the user may write, with new /tmp, /var/tmp, /run,
// /dev, /proc and /sys. It protects the network and not the files: Spec.Hide is for what must stay hidden even so.
//
// Both cover every path-named UNIX socket that was bound in the host's network namespace when the sandbox started, for a
// read-only mount does not keep anyone from connecting. Sockets that appear later in a share are shut by Landlock, on a
// kernel that can (ABI 9). A share that is itself a socket is taken as meant.
//
// Of /proc there are the processes and a list of what programs read (shownProc), of /sys the processors and the sandbox's
// own network. Device nodes are the host's, read-only: the mode of a node is not CMD's to change, be it root.
//
// Trees are cloned, given their flags and attached as detached mounts (open_tree, mount_setattr, move_mount): flags are
// only added, so those locked by the host stay, and a path is opened once and never looked up again. Mount points are
// made without following symbolic links, because the home was CMD's to write in earlier runs.
//
// # Profiles
//
// With profile "tool" CMD has no capability and its user's own id. With profile "engine" it is root over namespaces of its
// own, inside those that hold the walls; engine_init.go and package engine have the theory of that.
//
// # CMD
//
// Just before it becomes CMD, a thread of init gives up what it has, in this order: limits (limits.go), a session keyring,
// capabilities, no_new_privs, a Landlock domain (landlock.go), system calls (syscalls.go by name, arguments.go by
// argument). None of it can be undone. Limits that belong to a namespace are written while the walls are built; the last of
// them ends the making of namespaces. [Sandbox.Held] says what of it this kernel could give: Landlock is used as far as it
// goes and its lack is told, everything else is a reason not to start.
//
// Each wall stands behind another. The mounts hide the host's files and Landlock grants nothing outside of them; there is
// no capability to mount with, the filter refuses the call, and a namespace in which it would be allowed cannot be made.
//
// # Terminals
//
// When CMD gets the caller's controlling terminal it stays in the caller's session and process group: the kernel sends
// ^C and ^Z to both, pipelines work, and bash has job control inside (dash has not: its process group has no
// number in the pid namespace). Otherwise CMD gets a session of its own and
// cannot open the caller's terminal.
package sandbox
