//go:build linux

package gauntlet

func packetRows() []Row {
	return []Row{}
}
