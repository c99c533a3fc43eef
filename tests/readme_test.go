//go:build linux

package tests

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// A fenced block of the README under one of these HTML comments is held to what it says: `<!-- test -->` over ```sh or
// ```console is run, as an ordinary user's shell in the playground with weir on its PATH; `<!-- policy -->` over ```yaml is
// checked by `weir policy check`. In a console block the lines after "$ " are run, joined where they end in a backslash;
// what it shows as their output is not compared.
const (
	runMarker    = "<!-- test -->"
	policyMarker = "<!-- policy -->"
)

// block is a marked fenced block.
type block struct {
	marker, language, text string
	line                   int
}

var fence = regexp.MustCompile("^```([a-z]*)$")

// markedBlocks finds them. A marker that no block follows is an error of the document.
func markedBlocks(t *testing.T, document string) (blocks []block) {
	lines := strings.Split(document, "\n")
	for i := 0; i < len(lines); i++ {
		marker := strings.TrimSpace(lines[i])
		if marker != runMarker && marker != policyMarker {
			continue
		}
		open := i + 1
		for open < len(lines) && strings.TrimSpace(lines[open]) == "" {
			open++
		}
		var language []string
		if open < len(lines) {
			language = fence.FindStringSubmatch(lines[open])
		}
		if language == nil {
			t.Errorf("line %d: %s has no fenced block below it", i+1, marker)
			continue
		}
		end := open + 1
		for end < len(lines) && lines[end] != "```" {
			end++
		}
		blocks = append(blocks, block{marker, language[1], strings.Join(lines[open+1:min(end, len(lines))], "\n") + "\n", open + 2})
		i = end
	}
	return blocks
}

// script is what of the block a shell runs.
func (b block) script() string {
	if b.language != "console" {
		return b.text
	}
	var commands strings.Builder
	continued := false
	for line := range strings.Lines(b.text) {
		command, prompt := strings.CutPrefix(line, "$ ")
		if prompt || continued {
			commands.WriteString(command)
			continued = strings.HasSuffix(strings.TrimRight(command, "\n"), `\`)
		}
	}
	return commands.String()
}

func TestReadme(t *testing.T) {
	text, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	count := map[string]int{}
	for _, b := range markedBlocks(t, string(text)) {
		count[b.marker]++
		switch {
		case b.marker == policyMarker && b.language == "yaml":
			checkPolicyBlock(t, dir, b)
		case b.marker == runMarker && (b.language == "sh" || b.language == "console"):
			runBlock(t, dir, b)
		default:
			t.Errorf("README.md:%d: %s is not for a %q block", b.line, b.marker, b.language)
		}
	}
	for _, marker := range []string{runMarker, policyMarker} {
		if count[marker] == 0 {
			t.Errorf("the README has no block marked %s", marker)
		}
	}
}

func checkPolicyBlock(t *testing.T, dir string, b block) {
	path := filepath.Join(dir, "weir.yaml")
	if err := os.WriteFile(path, []byte(b.text), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(filepath.Join(binDir(), "weir"), "policy", "check", path).CombinedOutput(); err != nil {
		t.Errorf("README.md:%d: %v\n%s", b.line, err, out)
	}
}

// runBlock runs every block in the same directory: a reader does too.
func runBlock(t *testing.T, dir string, b block) {
	cmd := exec.Command("bash", "-e", "-u", "-o", "pipefail", "-c", b.script())
	cmd.Dir = dir
	cmd.Env = append(stateOf(t), "HOME="+dir, "PATH="+binDir()+":"+os.Getenv("PATH"), "WEIR_PLAYGROUND=")
	if strings.TrimSpace(b.script()) == "" {
		t.Errorf("README.md:%d: the block has no command", b.line)
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("README.md:%d: %v\n%s\n%s", b.line, err, b.script(), out)
	}
}

func TestMarkedBlocks(t *testing.T) {
	document := "text\n<!-- test -->\n```console\n$ echo one \\\n    two\none two\n$ true\n```\n```sh\nfalse\n```\n<!-- policy -->\n\n```yaml\nversion: 1\n```\n"
	got := markedBlocks(t, document)
	if len(got) != 2 || got[0].script() != "echo one \\\n    two\ntrue\n" || got[0].line != 4 || got[1].text != "version: 1\n" || got[1].marker != policyMarker {
		t.Errorf("%+v", got)
	}
}
