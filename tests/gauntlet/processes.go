//go:build linux

package gauntlet

import "slices"

func processRows() []Row {
	return slices.Concat(descriptorRows(), streamRows(), procRows(), influenceRows(), environmentRows(), lifeRows(), outwardRows())
}
