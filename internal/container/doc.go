//go:build linux

// Package container tells who is behind a port of a bridge: which container, on a host where container engines run.
//
// It asks the kernel and reads what the engines have written down; it needs no engine's API and no socket of one. The way
// from a port to a name is
//
//	port of the bridge ── IFLA_LINK, IFLA_LINK_NETNSID ──▶ the other end: an index in a namespace
//	namespace          ── RTM_GETNSID of /proc/PID/ns/net and of the namespaces that are mounted ──▶ its processes
//	first process      ── its control group, or the conmon that is its parent ──▶ engine and id of the container
//	id                 ── the engine's own files ──▶ name, image, labels
//
// The container is hostile. Nothing that it can write decides who it is: not its host name, not its files, not the names or
// arguments of its processes, and of its control group only the outermost part, which the engine chose. Its addresses are
// its own claim if it may configure its network, so an address that two ports have belongs to the one that had it first,
// or to none. Its resolv.conf says which DNS servers it wants and no more; it is opened inside the container's root, by
// a goroutine of its own that nobody waits for longer than [rootPatience], and only if it is an ordinary file.
//
// A container may end at any moment and all its numbers may be used again: process id, namespace inode, nsid, address.
// Everything about a process is read through one descriptor of its directory, a namespace is known by the kernel's cookie
// (SO_NETNS_COOKIE), which is never used again, and the port must be the same before and after. What does not fit together
// any more is [ErrGone], never another container.
//
// The caller is root in the namespaces where the bridge is: CAP_SYS_ADMIN to enter the other namespaces, CAP_SYS_PTRACE
// to look at their processes.
package container
