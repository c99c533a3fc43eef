//go:build linux && !client

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/weir-dev/weir/internal/lockdown"
	"github.com/weir-dev/weir/internal/ping"
	"github.com/weir-dev/weir/internal/stub"
	"github.com/weir-dev/weir/sandbox"
	"github.com/weir-dev/weir/tproxy"
)

// probe is one thing that doctor does.
type probe struct {
	id  string
	try func() finding
}

// probes are what weir needs of a host, most needed first.
func probes() []probe {
	return []probe{
		{"user-namespaces", probeUserNamespaces},
		{"apparmor", probeAppArmor},
		{"sandbox-tap", func() finding { return probeSandbox("tap") }},
		{"sandbox-veth", func() finding { return probeSandbox("veth") }},
		{"walls", probeWalls},
		{"lockdown", probeLockdown},
		{"nft-tproxy", probeTProxy},
		{"host-door", probeHostDoor},
		{"ping", probePing},
		{"resolver", probeResolver},
		{"ipv6", probeIPv6},
		{"subuids", probeSubIDs},
		{"newuidmap", probeIDMappers},
		{"fuse", probeFuse},
		{"engine", probeEngine},
	}
}

// probesNamed are those with the ids, all of them without any.
func probesNamed(ids []string) ([]probe, error) {
	all := probes()
	if len(ids) == 0 {
		return all, nil
	}
	var chosen []probe
	for _, id := range ids {
		i := slices.IndexFunc(all, func(p probe) bool { return p.id == id })
		if i < 0 {
			return nil, usageError{hint(fmt.Errorf("doctor %s: no such finding", id), "weir doctor, to see all of them")}
		}
		chosen = append(chosen, all[i])
	}
	return chosen, nil
}

func newDoctorCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:     "doctor [ID...]",
		Short:   "Find out what this machine can do, by doing it",
		Long:    "Try everything that weir needs of a host and say what fails and how to mend it; with IDs only that.\n\nExit status: 0, or 2 when something that weir cannot do without is missing.",
		Example: "  weir doctor\n  weir doctor nft-tproxy sandbox-tap\n  weir doctor --json | jq 'map(select(.status != \"pass\"))'",
		Args:    cobra.ArbitraryArgs,
		ValidArgsFunction: func(_ *cobra.Command, given []string, _ string) (ids []string, _ cobra.ShellCompDirective) {
			for _, p := range probes() {
				if !slices.Contains(given, p.id) {
					ids = append(ids, p.id)
				}
			}
			return ids, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, ids []string) error {
			chosen, err := probesNamed(ids)
			if err != nil {
				return err
			}
			var findings []finding
			for _, p := range chosen {
				f := p.try()
				f.ID = p.id
				findings = append(findings, f)
			}
			findings = judgeLinks(findings)
			return writeFindings(cmd, g, findings)
		},
	}
}

// judgeLinks makes the lack of both kinds of link a failure: one of them is enough.
func judgeLinks(findings []finding) []finding {
	works, tried := false, 0
	for _, f := range findings {
		if strings.HasPrefix(f.ID, "sandbox-") {
			tried++
			works = works || f.Status == "pass"
		}
	}
	if tried < 2 {
		return findings
	}
	for i := range findings {
		if !works && strings.HasPrefix(findings[i].ID, "sandbox-") {
			findings[i].Status = "fail"
		}
	}
	return findings
}

// probeUserNamespaces runs a program in new user and network namespaces.
func probeUserNamespaces() finding {
	if _, err := inNamespaces(exec.Command("true")); err != nil {
		return finding{Status: "fail", Summary: "user namespaces cannot be made: " + err.Error(), Fix: namespaceFix(err)}
	}
	return finding{Status: "pass", Summary: "an ordinary user can make user and network namespaces"}
}

// inNamespaces runs cmd in user and network namespaces of its own, with all capabilities over them, and returns what it says.
func inNamespaces(cmd *exec.Cmd) (string, error) {
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
		Pdeathsig:   syscall.SIGKILL,
	}
	out, err := cmd.CombinedOutput()
	text := strings.TrimSpace(string(out))
	if err != nil && text != "" {
		return "", errors.New(text)
	}
	return text, err
}

func probeAppArmor() finding {
	switch sysctl("kernel/apparmor_restrict_unprivileged_userns") {
	case "":
		return finding{Status: "pass", Summary: "this kernel has no AppArmor restriction of user namespaces"}
	case "0":
		return finding{Status: "pass", Summary: "AppArmor does not restrict user namespaces"}
	}
	if _, err := inNamespaces(exec.Command("true")); err == nil {
		return finding{Status: "pass", Summary: "AppArmor restricts user namespaces, but not for weir"}
	}
	return finding{Status: "fail", Summary: "AppArmor restricts user namespaces, for weir too",
		Fix: "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"}
}

// probeSandbox builds the walls around nothing.
func probeSandbox(link string) finding {
	home, _ := os.UserHomeDir()
	box, err := emptySandbox(link, home)
	if err != nil {
		var h hinted
		f := finding{Status: "warn", Summary: "no sandbox with a " + link + " link: " + err.Error()}
		if errors.As(withHint(err), &h) {
			f.Fix = h.fix
		}
		return f
	}
	defer box.Close()
	file, info := box.Link()
	defer file.Close()
	return finding{Status: "pass", Summary: fmt.Sprintf("a sandbox with a %s link works, segmentation offload: %v", info.Kind, info.TSO)}
}

func emptySandbox(link, home string) (*sandbox.Sandbox, error) {
	return sandbox.Start(emptySpec(link, home))
}

// emptySpec is a sandbox for nothing.
func emptySpec(link, home string) sandbox.Spec {
	return sandbox.Spec{
		Command: []string{"true"}, Env: []string{"PATH=/usr/bin:/bin"}, Link: link, HomePath: home,
		Addr4: guest4, Gateway4: gateway4, Addr6: guest6, Gateway6: gateway6, GuestMAC: guestMAC, GatewayMAC: gatewayMAC,
		Nameservers: []netip.Addr{gateway4},
	}
}

// probeWalls says which walls around a program this kernel can give. The youngest, which shuts UNIX sockets that appear in
// a share, is in hardly any kernel yet, so the lack of that one alone is no warning.
func probeWalls() finding {
	home, _ := os.UserHomeDir()
	box, err := emptySandbox("auto", home)
	if err != nil {
		return finding{Status: "skip", Summary: "no sandbox to look at: " + err.Error()}
	}
	defer box.Close()
	f := finding{Status: "pass", Summary: "programs are held by " + strings.Join(box.Held(), ", ")}
	missing := sandbox.Missing(box.Held())
	if len(missing) > 0 {
		f.Summary += "; this kernel is too old for " + strings.Join(missing, ", ")
	}
	if len(missing) > 1 {
		f.Status = "warn"
		f.Fix = "use a kernel of 6.14 or later with CONFIG_SECURITY_LANDLOCK, booted with landlock in its lsm= list"
	}
	return f
}

// probeTProxyName is argv[0] of the process that tries the tproxy door.
const probeTProxyName = "weir-probe-tproxy"

func probeTProxy() finding {
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = []string{probeTProxyName}
	said, err := inNamespaces(cmd)
	var pe *fs.PathError
	switch {
	case errors.As(err, &pe) && pe.Op == "fork/exec": // it was not even asked: there are no namespaces
		return finding{Status: "warn", Summary: "no namespaces to try the tproxy door in: " + err.Error(), Fix: namespaceFix(err)}
	case err != nil:
		return finding{Status: "warn", Summary: "no tproxy door: " + err.Error(),
			Fix: "sudo modprobe -a " + doorModules + " (only --door tproxy and both need it)"}
	case said != "held":
		return finding{Status: "warn", Summary: "the tproxy door works, but the kernel holds no SYNs: what is refused is accepted first and then reset", Fix: "sudo modprobe -a " + holdModules}
	}
	return finding{Status: "pass", Summary: "the tproxy door works without privileges, and refused is refused: the kernel holds SYNs"}
}

// probeTProxyMain is that process.
func probeTProxyMain() {
	held, err := tproxy.Probe()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if held {
		fmt.Println("held")
	}
}

// probeLockdownName is argv[0] of the process that locks itself down.
const probeLockdownName = "weir-probe-lockdown"

// probeLockdown finds out what holds weir's own processes here.
func probeLockdown() finding {
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = []string{probeLockdownName}
	out, err := cmd.CombinedOutput()
	said := strings.Fields(string(out))
	switch {
	case err != nil:
		return finding{Status: "fail", Summary: "weir's own processes cannot be locked down: " + strings.TrimSpace(string(out)), Fix: seccompFix}
	case len(said) < 2:
		return finding{Status: "warn", Summary: "weir's own processes are held by " + strings.Join(said, ", ") + " only: this kernel has no Landlock",
			Fix: "use a kernel with CONFIG_SECURITY_LANDLOCK (5.13 or later), booted with landlock in its lsm= list"}
	}
	return finding{Status: "pass", Summary: "weir's own processes are held by " + strings.Join(said, ", ")}
}

// probeLockdownMain is that process.
func probeLockdownMain() {
	held, err := lockdown.DataPath()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(strings.Join(held, " "))
}

func probePing() finding {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	c, err := ping.Dial(ctx, netip.MustParseAddr("127.0.0.1"))
	if err != nil {
		return finding{Status: "warn", Summary: "ping cannot be carried: " + err.Error(), Fix: `sudo sysctl -w net.ipv4.ping_group_range="0 2147483647"`}
	}
	c.Close()
	return finding{Status: "pass", Summary: "ping can be carried"}
}

func probeResolver() finding {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	if err := (&stub.Host{}).Probe(ctx); err != nil {
		return finding{Status: "warn", Summary: "the host's resolvers do not answer: " + err.Error(), Fix: "check the nameserver lines of /etc/resolv.conf"}
	}
	return finding{Status: "pass", Summary: "the host's resolvers answer"}
}

func probeIPv6() finding {
	if hostHasIPv6() {
		return finding{Status: "pass", Summary: "the host has IPv6, so sandboxes do"}
	}
	return finding{Status: "skip", Summary: "the host has no IPv6 address, so sandboxes have none"}
}
