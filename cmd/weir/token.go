package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"

	"golang.org/x/term"

	"github.com/weir-dev/weir/tunnel/creds"
)

// tokenFileEnv names a file with a token, where --token-file does not.
const tokenFileEnv = "WEIR_TOKEN_FILE"

// maxTokenFile is how much is read of a file in which there should be one token, in octets.
const maxTokenFile = 4096

// tokenInArgs finds a token on the command line, and never says what it is. What follows "--" is another program's.
func tokenInArgs(args []string) error {
	for _, a := range args {
		if a == "--" {
			return nil
		}
		if strings.Contains(a, creds.TokenPrefix) {
			return usageError{hint(errors.New("an enrolment token stands on the command line, where other users of this machine and the shell's history see it; it was not used"),
				"have another one made (weir keys token), and give it by --token-file FILE, or on stdin with --token-file -")}
		}
	}
	return nil
}

// readToken reads a token from a file, stdin for "-"; without a name from the file that the environment names.
func readToken(file string, u *ui) (creds.Token, error) {
	if file == "" {
		file = os.Getenv(tokenFileEnv)
	}
	if file == "" {
		return creds.Token{}, usageError{hint(errors.New("which token? --token-file is missing"), "weir keys token on the edge makes one; then --token-file FILE, or --token-file - for stdin")}
	}
	text, err := tokenText(file, u)
	if err != nil {
		return creds.Token{}, err
	}
	token, err := creds.ParseToken(text)
	if err != nil {
		return creds.Token{}, hint(fmt.Errorf("--token-file %s: %w", file, err), "put into it what weir keys token printed, one line")
	}
	return token, nil
}

func tokenText(file string, u *ui) (string, error) {
	if strings.Contains(file, creds.TokenPrefix) { // in the environment it is seen by fewer, and by too many
		return "", usageError{hint(errors.New(tokenFileEnv+" holds a token, where the name of a file belongs; it was not used"), "put the token into a file, and the file's name into %s", tokenFileEnv)}
	}
	if file != "-" {
		return tokenFromFile(file, u)
	}
	if term.IsTerminal(int(os.Stdin.Fd())) {
		fmt.Fprint(os.Stderr, "token (not shown): ")
		b, err := term.ReadPassword(int(os.Stdin.Fd()))
		fmt.Fprintln(os.Stderr)
		if err != nil {
			return "", fmt.Errorf("read token: %w", err)
		}
		return string(b), nil
	}
	b, err := io.ReadAll(io.LimitReader(os.Stdin, maxTokenFile))
	if err != nil {
		return "", fmt.Errorf("read token from stdin: %w", err)
	}
	return string(b), nil
}

func tokenFromFile(file string, u *ui) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", fmt.Errorf("--token-file: %w", err)
	}
	defer f.Close()
	if fi, err := f.Stat(); err == nil && runtime.GOOS != "windows" && fi.Mode().IsRegular() && fi.Mode().Perm()&0o077 != 0 {
		u.warnf("--token-file %s: other users may read it, and could have used the token", file)
		u.fix("umask 077 before the file is made")
	}
	b, err := io.ReadAll(io.LimitReader(f, maxTokenFile))
	if err != nil {
		return "", fmt.Errorf("--token-file: %w", err)
	}
	return string(b), nil
}

// clockFix sets this machine's clock.
func clockFix() string {
	switch runtime.GOOS {
	case "darwin":
		return "System Settings, General, Date & Time: set time automatically"
	case "windows":
		return "w32tm /resync"
	}
	return "sudo timedatectl set-ntp true"
}
