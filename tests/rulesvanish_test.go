//go:build linux

package tests

import (
	"bytes"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestRulesVanish: when the owner of the namespace, who alone can, takes the rules of a door away, nothing of the program
// leaves any more, weir ends it, and says why.
func TestRulesVanish(t *testing.T) {
	for _, program := range []string{"nsenter", "nft"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("%s is not installed", program)
		}
	}
	for _, door := range doors[1:] {
		t.Run(door, func(t *testing.T) {
			var stderr bytes.Buffer
			cmd := exec.Command(filepath.Join(binDir(), "weir-under-test"), "run", "-q", "--door", door, "--allow", "tools.example:7",
				"--share="+filepath.Join(binDir(), "probe")+":/run/probe:ro", "--",
				"sh", "-c", "/run/probe tcp tools.example:7 before || exit 9; sleep 60")
			cmd.Env, cmd.Stderr = stateOf(t), &stderr
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			defer cmd.Process.Kill()
			if b := make([]byte, 6); true {
				if _, err := out.Read(b); err != nil || string(b) != "before" {
					t.Fatalf("%q, %v: %s", b, err, stderr.String())
				}
			}
			init := 0
			family := descendants(t, cmd.Process.Pid)
			for _, p := range family {
				if p.name == "weir-init" {
					init = p.pid
				}
			}
			vanish := exec.Command("nsenter", "--net", "--target", strconv.Itoa(init), "nft", "flush", "ruleset") // the playground is above it
			if text, err := vanish.CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, text)
			}
			late := time.AfterFunc(patience, func() { cmd.Process.Kill() })
			defer late.Stop()
			if err := cmd.Wait(); err == nil {
				t.Error("weir ended as if nothing had happened")
			}
			if !strings.Contains(stderr.String(), "somebody changed the nftables rules of the sandbox") {
				t.Errorf("weir did not say why:\n%s", stderr.String())
			}
			waitGone(t, family)
		})
	}
}
