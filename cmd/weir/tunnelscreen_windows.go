package main

import (
	"os"

	"golang.org/x/sys/windows"
)

// understandEscapes has the console take escape sequences for what they are.
func understandEscapes(out *os.File) (restore func(), err error) {
	h := windows.Handle(out.Fd())
	var before uint32
	if err := windows.GetConsoleMode(h, &before); err != nil {
		return nil, err
	}
	if err := windows.SetConsoleMode(h, before|windows.ENABLE_VIRTUAL_TERMINAL_PROCESSING|windows.DISABLE_NEWLINE_AUTO_RETURN); err != nil {
		return nil, err
	}
	return func() { _ = windows.SetConsoleMode(h, before) }, nil
}
