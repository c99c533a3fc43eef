//go:build linux

package tests

import (
	"archive/zip"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// program is something that people run, as they run it: a script for sh inside, and what it says when all is well.
type program struct {
	name  string
	needs []string // to be found in PATH
	allow []string // what of the network it must be allowed; nil: it needs none
	flags []string
	run   string
	want  string
}

// programs use the walls as the tools of MCP servers do. CMD's home is empty and its own, $WORK is a share.
func programs(work string) []program {
	return []program{
		{name: "node", needs: []string{"node"}, allow: []string{"shop.example"}, flags: []string{"--env", "NODE_EXTRA_CA_CERTS=/run/ca.pem"},
			run: `node -e 'const fs = require("fs"), cp = require("child_process");
				fs.watch(process.env.HOME).close(); fs.writeFileSync(process.env.HOME + "/x", "1"); new (require("worker_threads").Worker)("", {eval: true});
				cp.execFileSync("sh", ["-c", "test -e ~/x"]); fetch("https://shop.example/").then(r => r.text()).then(t => console.log(t.trim()))'`,
			want: "hello from shop.example"},
		{name: "npx", needs: []string{"npx", "node"}, run: `npx --offline --yes --package=file:$WORK/package say hello 2>&1 | tail -1`, want: "package says hello"},
		{name: "python", needs: []string{"python3"}, allow: []string{"shop.example"}, flags: []string{"--env", "SSL_CERT_FILE=/run/ca.pem"},
			run: `python3 -c 'import urllib.request, subprocess, socket, threading, tempfile
tempfile.TemporaryFile().write(b"x"); subprocess.run(["true"], check=True); a, b = socket.socketpair(); t = threading.Thread(target=a.close); t.start(); t.join()
print(urllib.request.urlopen("https://shop.example/").read().decode().strip())'`, want: "hello from shop.example"},
		{name: "multiprocessing", needs: []string{"python3"}, run: `cat >$HOME/m.py <<'end'
import multiprocessing
if __name__ == "__main__":
    multiprocessing.set_start_method("forkserver")
    with multiprocessing.Pool(2) as p: print(sum(p.map(abs, [-1, -2, -3])))
end
python3 $HOME/m.py`, want: "6"},
		{name: "pip", needs: []string{"python3", "pip3"}, run: `$(python3 -c 'import sys; print(sys.executable)') -m pip install -q --no-index --disable-pip-version-check --root-user-action=ignore --target $HOME/site $WORK/said-1.0-py3-none-any.whl &&
			PYTHONPATH=$HOME/site python3 -c 'import said; print(said.word)'`, want: "wheel"},
		{name: "venv", needs: []string{"python3", "pip3"}, run: `python3 -m venv --without-pip $HOME/v && $HOME/v/bin/python -c 'print("venv")'`, want: "venv"},
		{name: "uv", needs: []string{"uv", "python3"}, run: `uv -q --offline venv $HOME/v && uv -q --offline pip install --python $HOME/v/bin/python --no-index $WORK/said-1.0-py3-none-any.whl &&
			$HOME/v/bin/python -c 'import said; print(said.word)'`, want: "wheel"},
		{name: "uvx", needs: []string{"uvx", "python3"}, run: `uvx -q --offline --no-index --from $WORK/said-1.0-py3-none-any.whl python -c 'import said; print(said.word)'`, want: "wheel"},
		{name: "curl", needs: []string{"curl"}, allow: []string{"shop.example"}, run: `curl -sS --cacert /run/ca.pem https://shop.example/`, want: "hello from shop.example"},
		{name: "git over https", needs: []string{"git"}, allow: []string{"code.example"},
			flags: []string{"--env", "GIT_SSL_CAINFO=/run/ca.pem"},
			run:   `git clone -q https://code.example/repo $HOME/repo && cd $HOME/repo && cat file && git log --oneline | wc -l`, want: "in the repository\n1"},
		{name: "git over ssh", needs: []string{"git", "ssh"}, allow: []string{"code.example:22"},
			flags: []string{"--env", "GIT_SSH_COMMAND=ssh -i /run/key -o StrictHostKeyChecking=accept-new -o BatchMode=yes", "--share=" + work + "/key:/run/key:ro"},
			run:   `git clone -q git@code.example:repo $HOME/repo 2>&1 | grep -v known.hosts; cat $HOME/repo/file`, want: "in the repository"},
		{name: "git at work", needs: []string{"git"}, run: `cd $WORK && git init -q mine && cd mine && git config user.email a@b && git config user.name a && echo x >f && git add f && git commit -qm one &&
			git checkout -qb other && git mv f g && git commit -qam two && git gc -q && git log --oneline | wc -l`, want: "2"},
		{name: "go", needs: []string{"go"}, flags: []string{"--env", "GOPROXY=off", "--env", "GOTOOLCHAIN=local", "--env", "GOFLAGS=-mod=mod", "--env", "CGO_ENABLED=0", "--env", "GOTELEMETRY=off"},
			run: `mkdir $HOME/hello && cd $HOME/hello && go mod init -modfile=go.mod hello 2>/dev/null || go mod init hello 2>/dev/null
			printf 'package main\nfunc main() { println("built inside") }\n' >main.go && go build -o hello . && ./hello 2>&1`, want: "built inside"},
		{name: "psql", needs: []string{"psql"}, allow: []string{"code.example:5432"}, run: `psql -X -At 'postgresql://me:secret@code.example/db?sslmode=disable' -c 'select answer'`, want: "forty-two"},
		{name: "bash", needs: []string{"bash"}, run: `bash -c 'set -m; sleep 0.05 & wait %1; cat <(echo one) <<<two - | sort | tr "\n" " "; coproc cat; echo x >&${COPROC[1]}; read -u ${COPROC[0]} y; echo $y >/dev/stdout; ulimit -n 2048'`, want: "one two x"},
		{name: "sh", needs: []string{"sh"}, run: `for i in 3 1 2; do echo $i; done | sort | (read a; cat; echo $a) | tee /dev/stderr 2>/dev/null | tr '\n' ' '; trap 'echo bye' EXIT; mkfifo /tmp/p; (echo x >/tmp/p &); cat /tmp/p`, want: "2 3 1 x\nbye"},
		{name: "make", needs: []string{"make"}, run: `cd $HOME; printf 'all: a b\n\t@cat a b\n%%:\n\t@echo $@ >$@\n' >Makefile; make -sj2`, want: "a\nb"},
		{name: "ps and top", needs: []string{"ps"}, run: `ps -e -o args= | head -1; uptime >/dev/null; free >/dev/null; nproc >/dev/null && echo fine`, want: "weir-init\nfine"},
	}
}

// TestPrograms runs each as an MCP client would start it, where weir enforces, and what uses the network where it only
// looks, too.
func TestPrograms(t *testing.T) {
	work := workFor(t)
	var absent []string
	for _, p := range programs(work) {
		t.Run(p.name, func(t *testing.T) {
			for _, need := range p.needs {
				if _, err := exec.LookPath(need); err != nil {
					absent = append(absent, p.name)
					t.Skipf("this machine has no %s", need)
				}
			}
			t.Parallel()
			enforce := []string{"--mode", "enforce"}
			for _, a := range p.allow {
				enforce = append(enforce, "--allow", a)
			}
			if out, err := p.runWith(t, work, enforce); err != nil || strings.TrimSpace(out) != p.want {
				t.Errorf("enforce: it said %q, %v; want %q", out, err, p.want)
			}
			if p.allow == nil {
				return
			}
			if out, err := p.runWith(t, work, nil); err != nil || strings.TrimSpace(out) != p.want {
				t.Errorf("audit: it said %q, %v; want %q", out, err, p.want)
			}
			if out, _ := p.runWith(t, work, []string{"--mode", "enforce"}); strings.TrimSpace(out) == p.want {
				t.Error("it got through where nothing is allowed")
			}
		})
	}
	if len(absent) > 0 {
		t.Logf("not here: %s", strings.Join(absent, ", "))
	}
}

// runWith runs p once, in a share of its own, and returns its stdout.
func (p program) runWith(t *testing.T, work string, flags []string) (string, error) {
	share := t.TempDir()
	if err := os.CopyFS(share, os.DirFS(work)); err != nil {
		t.Fatal(err)
	}
	args := append([]string{"run", "-q", "--name", "program", "--events", filepath.Join(t.TempDir(), "events"), "--share", share, "--env", "WORK=" + share,
		"--share=" + world.CAFile() + ":/run/ca.pem:ro"}, flags...)
	args = append(append(args, p.flags...), "--", "sh", "-c", p.run)
	cmd := exec.Command(filepath.Join(binDir(), "weir"), args...)
	cmd.Env = append(stateOf(t), "WEIR_TEST_BIN="+binDir())
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("%w: %s", err, errs.Bytes())
	}
	return string(out), err
}

// workFor makes what the programs work on: a package for npx, a wheel for pip, a key for ssh.
func workFor(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	var wheel bytes.Buffer
	z := zip.NewWriter(&wheel)
	for _, f := range [][2]string{
		{"said.py", "word = 'wheel'\n"},
		{"said-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: said\nVersion: 1.0\n"},
		{"said-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nGenerator: weir\nRoot-Is-Purelib: true\nTag: py3-none-any\n"},
		{"said-1.0.dist-info/RECORD", "said.py,,\nsaid-1.0.dist-info/METADATA,,\nsaid-1.0.dist-info/WHEEL,,\nsaid-1.0.dist-info/RECORD,,\n"},
	} {
		w, err := z.Create(f[0])
		if err != nil {
			t.Fatal(err)
		}
		w.Write([]byte(f[1]))
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{
		"package/package.json":      `{"name": "said", "version": "1.0.0", "bin": {"say": "say.js"}}`,
		"package/say.js":            "#!/usr/bin/env node\nconsole.log('package says ' + process.argv[2])\n",
		"said-1.0-py3-none-any.whl": wheel.String(),
		"key":                       sshKey,
	} {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		mode := os.FileMode(0o600)
		if strings.HasSuffix(name, ".js") {
			mode = 0o755
		}
		if err := os.WriteFile(file, []byte(content), mode); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}
