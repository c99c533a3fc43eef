//go:build linux

// Package engine is rootlesskit's part of a sandbox of profile "engine": it has rootlesskit make the namespaces in which
// the program is root, with weir as the network driver.
//
// # Theory of operation
//
// Package sandbox builds the walls in an outer user namespace and then starts [Main] as an ordinary child of PID 1 there.
// From here on rootlesskit is in charge. Its parent part clones its child part into inner user, mount, pid, network, ipc,
// uts and cgroup namespaces, and has newuidmap and newgidmap map the subordinate ids. The child part mounts /proc, /sys
// and a writable /etc (copy-up), calls our driver, executes the command and reaps what is orphaned.
//
//	sandbox init          rootlesskit parent        rootlesskit child (PID 1)       command
//	walls
//	execute ------------> Parent
//	                      clone, newuidmap -------> Child
//	                      ConfigureNetwork -------> ConfigureNetworkChild
//	                                                TAP, addresses ---> launcher
//	                                                execute --------------------->  EngineCommand: waits for the
//	                                                                                launcher, filters, executes CMD
//
// The driver gives rootlesskit nothing to carry packets with: the TAP's descriptor goes from the inner network namespace
// straight to the launcher (SCM_RIGHTS over the control socket), and from there to the data path, as with every profile.
//
// # What rootlesskit is not trusted with
//
// Its processes run inside the walls. What it says goes nowhere unless the sandbox is asked to debug. Its API, which root
// inside could talk to, is unlinked before CMD starts. It is not asked how CMD ended: that comes by the control socket.
package engine
