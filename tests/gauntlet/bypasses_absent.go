//go:build linux

package gauntlet

// Absence is why reports about others have no row.
type Absence struct {
	Why   string
	Where []string
}

// Absent are the reports that research names beside those of [Bypasses], and that are no way round what weir promises.
func Absent() []Absence {
	return []Absence{
		{"domain fronting: what is inside TLS is not seen, docs/threats.md says so", []string{
			"microsandbox #709", "Wide-Moat #198",
		}},
		{"research names no mechanism, and the thread was not to be found", []string{
			"sandbox-runtime #225",
		}},
		{"memory errors in helpers for FTP, IRC and ident that rewrite payloads; weir has no such helpers", []string{
			"CVE-2019-6778", "CVE-2019-9824", "CVE-2020-7039", "CVE-2020-8608",
		}},
		{"what is allowed did not work; nothing passed that should not", []string{
			"Cilium #20650", "Cilium #28427", "Cilium #31197", "Cilium PR #11034", "microsandbox #603", "OpenShell #1107", "OpenShell #2752", "NemoClaw #557",
			"srt #353", "srt #458", "ToolHive #846", "greywall #79", "greywall #83", "greyproxy #54", "harden-runner #112", "CubeSandbox #131",
		}},
		{"denials that nobody sees, or cannot tell from a failure; here every row wants its event (Record)", []string{
			"microsandbox #691", "microsandbox PR #1254", "microsandbox #817", "microsandbox #894", "microsandbox PR #1489", "mitos #779", "srt #582", "srt #273",
			"sbx #611", "OpenShell #814", "claude-code #41642",
		}},
		{"the host forbids user namespaces or TUN devices; weir refuses to start, or takes the other link (reach/no-tun)", []string{
			"srt #74", "OpenShell #1895", "sbx #15", "nanobot #4236", "greywall #56", "bubblewrap #505", "bubblewrap #632",
		}},
		{"it holds more than it should: the protocol, or the private network, cannot be allowed at all", []string{
			"sbx #440", "sbx PR #25819", "sbx #147", "microsandbox #518", "OpenShell #59", "OpenShell #2712", "OpenShell PR #2723", "greywall #52", "Daytona PR #2266",
		}},
		{"a feature that is asked for: rules, views, logs, approval, learning, egress of one's own", []string{
			"sbx #73", "nono #842", "nono PR #1781", "OpenShell #1839", "OpenShell PR #1856", "ToolHive #405", "ToolHive #1048", "ToolHive #2023", "ToolHive #5900", "srt #147",
			"Daytona #1922", "Daytona #3785", "Daytona #3825", "Daytona #4134", "mitos #494", "#29186 (runs with nobody to ask)", "claude-code #94306", "archie-hq #159",
			"CherryHQ/stella #653", "open-chat-studio #4117", "vscode #294029", "vscode #297462", "vArmor PR #323", "agentcage PR #8", "codex PR #9859",
		}},
	}
}
