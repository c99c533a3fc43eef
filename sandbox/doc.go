//go:build linux

// Package sandbox makes the walls: it runs a program in namespaces of its own, as the calling user and without any
// capability, and hands the host's end of the program's only network link to the caller.
package sandbox
