//go:build linux

package tests

import (
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/weir-dev/weir"

// edges are the imports among our packages. What is not here is refused: packages that know little of each other can be
// read, tested and replaced one at a time, and what handles hostile bytes stays small. To add an edge, give its reason.
var edges = []struct{ from, to, why string }{
	{"netstack", "flow", "a door fills flow.Arrival and hands it to a flow.Handler"},
	{"tproxy", "flow", "the other door does the same"},
	{"tproxy", "tproxy/rules", "what the rules send to the door is received there"},
	{"sandbox", "tproxy/rules", "the rules and the sockets of the tproxy door belong to the sandbox's network namespace"},
	{"flow", "flow/sniff", "the gate reads the claim in a flow's first bytes"},
	{"flow", "flow/policy", "the gate asks for a decision and obeys it"},
	{"flow", "flow/event", "the gate tells what became of each flow"},
	{"flow", "internal/relay", "the gate carries the bytes"},
	{"flow", "internal/batch", "the gate carries datagrams by the batch where both ends can"},
	{"netstack", "internal/batch", "the link sends batches the way that sockets do: runs of one size as one super-datagram"},
	{"tproxy", "internal/batch", "a flow's own end is a socket, too"},
	{"flow", "internal/guard", "the gate unmaps addresses the way that the policy does"},
	{"flow/policy", "internal/guard", "guards are judged before any rule"},
	{"flow/policy", "internal/hostname", "names in rules are normalised as those on the wire are"},
	{"flow/sniff", "internal/hostname", "names on the wire are normalised as those in rules are"},
	{"resolver", "flow/event", "the resolver speaks of queries in the words of the event log"},
	{"resolver", "internal/stub", "the host's own resolvers are the upstream of the direct route, and messages are framed the same"},
	{"internal/stub", "internal/hostname", "names in the host's files are normalised as rules are"},
	{"resolver", "internal/batch", "watched flows wait for datagrams without a buffer"},
	{"resolver", "internal/guard", "answers that lead into guarded ranges are stripped"},
	{"resolver", "internal/hostname", "questions are normalised as rules are"},
	{"internal/bench", "internal/playground", "what is measured lives in namespaces of its own"},
	{"internal/bench", "flow/event", "the event log says which door ran, and has one event for each flow"},
	{"hack/gauntlet", "tests/gauntlet", "the command runs the table of the tests"},
	{"sandbox/engine", "sandbox", "rootlesskit runs inside the walls and has the link made by them"},
	{"internal/boxed", "internal/playground", "parts of a measuring program run in sandboxes as by an ordinary user of the playground's host"},
	{"internal/capture", "flow/sniff", "weir read has the live sniffers, no second parser"},
	{"internal/capture", "flow/event", "weir read prints the live event shape"},
	{"internal/capture", "internal/hostname", "names in captured DNS are normalised as live ones are"},
	{"tunnel/wire", "tunnel", "the format of the words that both ends share"},
	{"tunnel/session", "tunnel", "a session opens flows and serves a handler"},
	{"tunnel/session", "tunnel/wire", "what goes over the connection"},
	{"tunnel/session", "internal/batch", "the user's sockets take and give datagrams by the batch"},
	{"tunnel/creds", "tunnel", "who a certificate says that a client is"},
	{"tunnel/creds", "tunnel/wire", "enrolment has the bounds of every other message"},
	{"tunnel/edge", "tunnel", "the hosted end opens flows for sandboxes"},
	{"tunnel/edge", "tunnel/wire", "clients say what they reach"},
	{"tunnel/edge", "tunnel/session", "one for each client"},
	{"tunnel/edge", "tunnel/creds", "who may connect"},
	{"tunnel/edge", "tunnel/gro", "packets come in by the message"},
	{"tunnel/client", "tunnel/gro", "packets come in by the message"},
	{"tunnel/edge", "tunnel/websocket", "where UDP is blocked"},
	{"tunnel/handoff", "tunnel", "a data path opens flows, an edge serves them"},
	{"tunnel/handoff", "internal/relay", "both ends of a flow are carried like those of any other"},
	{"tunnel/client", "tunnel", "the user's end handles what the edge opens"},
	{"tunnel/client", "tunnel/wire", "what it tells the edge that it reaches"},
	{"tunnel/client", "tunnel/session", "the connection"},
	{"tunnel/client", "tunnel/creds", "who it is, and who the edge is"},
	{"tunnel/client", "tunnel/websocket", "where UDP is blocked"},
	{"tunnel/client", "tunnel/localdns", "the user's own names"},
	{"tunnel/client", "flow/policy", "rules of the client are spelled as those of a sandbox are"},
	{"tunnel/client", "flow/event", "what happens on the user's machine is told in the words of the event log"},
	{"tunnel/client", "internal/guard", "addresses that need an explicit word"},
	{"tunnel/client", "internal/hostname", "names are normalised as rules are"},
	{"tunnel/websocket", "internal/batch", "the edge's listener is reached by a socket of its own for each session, many packets at a time"},
	{"tunnel/localdns", "tunnel", "how a question failed"},
	{"tunnel/localdns", "internal/stub", "the hosts file and the nameservers of the user's machine, asked as those of any machine are"},
	{"tunnel/localdns", "internal/hostname", "names are normalised as rules are"},
}

// joiners put the parts together, so they may import all of them; nothing imports a joiner.
var joiners = []string{"cmd/weir", "hack", "tests"}

// restricted are the modules that live in few places, each for its reason. What is not named here is for anybody.
var restricted = []struct {
	prefix string
	in     []string
	why    string
}{
	{"gvisor.dev/gvisor", []string{"netstack"}, "one package knows gVisor, so that the tunnel client need not link it and an update has one place to break"},
	{"github.com/containers/gvisor-tap-vsock", []string{"netstack"}, "it brings gVisor along"},
	{"github.com/insomniacslk/dhcp", []string{"netstack"}, "DHCP is a matter of the link"},
	{"github.com/quic-go/", []string{"tunnel", "internal/playground", "cmd/weir", "hack", "tests"}, "sniffers must not trust a full QUIC stack with hostile bytes; servers and the demo's program may"},
	{"github.com/coder/websocket", []string{"tunnel/websocket"}, "one package knows what carries QUIC where UDP is blocked"},
	{"github.com/miekg/dns", []string{"resolver", "tunnel", "internal/stub", "internal/testdns", "internal/capture", "internal/playground", "tests"}, "the policy and the gate see names, not DNS messages"},
	{"github.com/goccy/go-yaml", []string{"flow/policy"}, "one package reads the file"},
	{"github.com/rootless-containers/rootlesskit", []string{"sandbox/engine"}, "it runs for one profile, in processes of its own"},
	{"github.com/spf13/cobra", []string{"cmd/weir"}, "only the command has a command line"},
	{"github.com/google/nftables", []string{"tproxy", "tests/gauntlet"}, "one door needs it, and attacks on it"},
	{"github.com/vishvananda/netlink", []string{"sandbox", "tproxy", "internal/playground", "internal/container", "internal/testpodman", "tests"}, "only what makes or looks into namespaces configures links, and attacks on them"},
	{"github.com/tailscale/hujson", []string{"internal/clientconfig"}, "only wrap edits JSON with comments"},
	{"github.com/modelcontextprotocol/", []string{"tests"}, "weir reads along in MCP by itself; the SDK plays the client in tests"},
	{"golang.org/x/term", []string{"cmd/weir", "hack"}, "only commands talk to people"},
	{"github.com/sirupsen/logrus", []string{"netstack", "tproxy", "flow", "resolver", "internal/stub", "tunnel", "cmd/weir", "sandbox/engine"}, "diagnostics; events never pass through a logger, so flow/event has none"},
	{"github.com/elastic/go-seccomp-bpf", []string{"sandbox", "internal/lockdown"}, "the walls around CMD and around weir's own processes"},
	{"github.com/landlock-lsm/go-landlock", []string{"sandbox", "internal/lockdown"}, "the same walls"},
	{"kernel.org/pub/linux/libs/security/libcap/psx", []string{"internal/lockdown"}, "a privilege is dropped on all threads or not at all"},
	{"github.com/gopacket/gopacket", nil, "only tests make packets with it: the parsers of hostile bytes are our own"},
}

// moduleList keeps dependencies in go.mod and has no code; the rules are not for it.
const moduleList = "internal/deps"

type pkg struct {
	ImportPath, Dir, Name string
	Imports               []string
}

func (p pkg) short() string { return strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, module), "/") }

// under reports whether the package path lies in one of the trees.
func under(path string, trees []string) bool {
	return slices.ContainsFunc(trees, func(t string) bool { return path == t || strings.HasPrefix(path, t+"/") })
}

func ourPackages(t *testing.T) []pkg {
	cmd := exec.Command("go", "list", "-json=ImportPath,Dir,Name,Imports", "./...")
	cmd.Dir = ".."
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		errors.As(err, &exit)
		t.Fatalf("go list: %v\n%s", err, exit.Stderr)
	}
	var list []pkg
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		switch err := dec.Decode(&p); {
		case err == io.EOF:
			if len(list) < 10 {
				t.Fatalf("go list found %d packages only", len(list))
			}
			return list
		case err != nil:
			t.Fatal(err)
		case p.short() != moduleList:
			list = append(list, p)
		}
	}
}

// TestImports holds every import of ours, tests aside, to the tables.
func TestImports(t *testing.T) {
	for _, p := range ourPackages(t) {
		from := p.short()
		for _, path := range p.Imports {
			if to, ours := strings.CutPrefix(path, module+"/"); ours {
				if !edgeAllowed(from, to) {
					t.Errorf("%s imports %s: no edge allows it", from, to)
				}
				continue
			}
			for _, r := range restricted {
				if strings.HasPrefix(path, r.prefix) && !under(from, r.in) {
					t.Errorf("%s imports %s, which is for %v: %s", from, path, r.in, r.why)
				}
			}
		}
	}
}

func edgeAllowed(from, to string) bool {
	if slices.ContainsFunc(edges, func(e struct{ from, to, why string }) bool { return e.from == from && e.to == to }) {
		return true
	}
	return under(from, joiners) && !under(to, joiners)
}

// TestImportTableBites shows that the tables refuse something.
func TestImportTableBites(t *testing.T) {
	for _, c := range []struct {
		from, to string
		want     bool
	}{
		{"flow", "flow/event", true}, {"cmd/weir", "sandbox", true}, {"tests/probe", "internal/playground", true},
		{"sandbox/engine", "sandbox", true}, {"sandbox", "sandbox/engine", false},
		{"flow/event", "flow", false}, {"sandbox", "flow/event", false}, {"flow/sniff", "flow/policy", false},
		{"resolver", "flow/policy", false}, {"internal/guard", "internal/hostname", false}, {"flow", "cmd/weir", false}, {"hack/bench", "tests/probe", false},
	} {
		if got := edgeAllowed(c.from, c.to); got != c.want {
			t.Errorf("edge %s -> %s: allowed %v, want %v", c.from, c.to, got, c.want)
		}
	}
}

// TestReach holds what a package links, directly or not: what is said of imports would be worth little otherwise.
func TestReach(t *testing.T) {
	for _, c := range []struct {
		pkg     string
		without []string
		why     string
	}{
		{"./flow/...", []string{"gvisor.dev/", "github.com/quic-go/", "github.com/miekg/dns", "os/exec"}, "judging is independent of the door, and starts nothing"},
		{"./resolver", []string{"gvisor.dev/", module + "/flow/policy"}, "names are judged through a func"},
		{"./sandbox", []string{module + "/flow", module + "/netstack", module + "/resolver", "gvisor.dev/"}, "PID 1 is a re-exec of the binary, but its code is small"},
		{"./tproxy", []string{"gvisor.dev/"}, "the door that needs no stack"},
		{"./tunnel/...", []string{"gvisor.dev/", module + "/netstack", module + "/sandbox"}, "the user's machine needs none of it, and may not even be Linux"},
	} {
		cmd := exec.Command("go", "list", "-deps", c.pkg)
		cmd.Dir = ".."
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("go list -deps %s: %v", c.pkg, err)
		}
		for line := range strings.Lines(string(out)) {
			for _, refused := range c.without {
				if path := strings.TrimSpace(line); strings.HasPrefix(path, refused) {
					t.Errorf("%s links %s: %s", c.pkg, path, c.why)
				}
			}
		}
	}
}

// TestClientBuild: the user's end of a tunnel is a binary for systems that weir has no sandbox for, and a small one for Linux.
// It compiles (here with the tag; .ci/run does all systems), and what it links is written down.
func TestClientBuild(t *testing.T) {
	build := exec.Command("go", "build", "-tags", "client", "-o", filepath.Join(t.TempDir(), "weir"), "./cmd/weir")
	build.Dir = ".."
	if out, err := build.CombinedOutput(); err != nil {
		t.Errorf("go build -tags client ./cmd/weir: %v: a file that needs what is not in the client begins with \"//go:build linux && !client\"\n%s", err, out)
	}
	without := []string{"gvisor.dev/", "github.com/containers/", "github.com/rootless-containers/", "github.com/google/nftables", "github.com/vishvananda/",
		"github.com/landlock-lsm/", "github.com/elastic/", module + "/netstack", module + "/tproxy", module + "/sandbox", module + "/resolver", module + "/tunnel/edge",
		module + "/tunnel/handoff", module + "/internal/lockdown", module + "/internal/bench", module + "/internal/playground"}
	for _, c := range []struct{ system, tags string }{{"linux", "client"}, {"darwin", ""}, {"windows", ""}} {
		// -e: a module that only another system needs may not have been fetched, and there is no network here.
		cmd := exec.Command("go", "list", "-e", "-deps", "-tags", c.tags, "./cmd/weir")
		cmd.Dir, cmd.Env = "..", append(os.Environ(), "GOOS="+c.system, "CGO_ENABLED=0")
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("go list -deps ./cmd/weir for %s: %v", c.system, err)
		}
		for line := range strings.Lines(string(out)) {
			for _, refused := range without {
				if path := strings.TrimSpace(line); strings.HasPrefix(path, refused) {
					t.Errorf("the client for %s links %s, which has no part in it", c.system, path)
				}
			}
		}
	}
}

// injected is what may be used of logrus outside the command: the interface, and what makes the silent logger that stands
// for nil. The global logger may not.
var injected = []string{"FieldLogger", "Fields", "New", "PanicLevel"}

func TestLoggersAreInjected(t *testing.T) {
	eachGoFile(t, func(path string, file *ast.File, _ *token.FileSet) {
		if strings.HasSuffix(path, "_test.go") || strings.HasPrefix(path, "cmd/weir/") {
			return
		}
		if strings.HasPrefix(path, "sandbox/engine/") { // rootlesskit has no other logger than the global one, which is quieted there
			return
		}
		ast.Inspect(file, func(n ast.Node) bool {
			if s, ok := n.(*ast.SelectorExpr); ok {
				if id, ok := s.X.(*ast.Ident); ok && id.Name == "logrus" && !slices.Contains(injected, s.Sel.Name) {
					t.Errorf("%s uses logrus.%s: take a logrus.FieldLogger", path, s.Sel.Name)
				}
			}
			return true
		})
	})
}

// The limits of what a reader takes in at once.
const (
	maxFileLines = 500
	maxFuncLines = 80
)

// TestSizes holds files and functions, tests aside, to the limits.
func TestSizes(t *testing.T) {
	eachGoFile(t, func(path string, file *ast.File, set *token.FileSet) {
		if strings.HasSuffix(path, "_test.go") {
			return
		}
		if n := set.File(file.Pos()).LineCount(); n > maxFileLines {
			t.Errorf("%s has %d lines, more than %d", path, n, maxFileLines)
		}
		for _, d := range file.Decls {
			f, ok := d.(*ast.FuncDecl)
			if !ok {
				continue
			}
			if n := set.Position(f.End()).Line - set.Position(f.Pos()).Line + 1; n > maxFuncLines {
				t.Errorf("%s: %s has %d lines, more than %d", path, f.Name.Name, n, maxFuncLines)
			}
		}
	})
}

// TestPackageComments: every package says what it is for.
func TestPackageComments(t *testing.T) {
	said := map[string]bool{}
	eachGoFile(t, func(path string, file *ast.File, _ *token.FileSet) {
		dir := filepath.Dir(path)
		said[dir] = said[dir] || file.Doc != nil && !onlyDirectives(file.Doc)
	})
	for dir, ok := range said {
		if !ok {
			t.Errorf("%s has no package comment", dir)
		}
	}
}

func onlyDirectives(g *ast.CommentGroup) bool { return strings.TrimSpace(g.Text()) == "" }

// eachGoFile parses the Go files of the repository, by their paths from its root.
func eachGoFile(t *testing.T, visit func(path string, file *ast.File, set *token.FileSet)) {
	n := 0
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == "testdata" || len(d.Name()) > 2 && d.Name()[0] == '.') {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(path, ".go") {
			return nil
		}
		set := token.NewFileSet()
		file, err := parser.ParseFile(set, path, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		n++
		visit(strings.TrimPrefix(path, "../"), file, set)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if n < 50 {
		t.Fatalf("only %d Go files were found", n)
	}
}
