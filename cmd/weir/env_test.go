//go:build linux && !client

package main

import (
	"slices"
	"strings"
	"testing"
)

func TestEnvironment(t *testing.T) {
	own := []string{
		"PATH=/usr/bin", "HOME=/home/u", "LC_ALL=C", "npm_config_registry=https://npm.example/", "UV_INDEX_URL=https://u:p@pypi.example/",
		"npm_config__authToken=s3cret", "AWS_SECRET_ACCESS_KEY=s3cret", "GITHUB_TOKEN=s3cret", "DISPLAY=:0", "EDITOR=vi", "FAVOURITE=1",
		"PIP_INDEX_URL=https://pypi.example/simple", "GOPROXY=https://u:p@proxy.example,direct",
	}
	env, withheld, err := environment(own, []string{"GITHUB_TOKEN", "MODE=test"})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"GITHUB_TOKEN=s3cret", "HOME=/home/u", "LC_ALL=C", "MODE=test", "PATH=/usr/bin", "PIP_INDEX_URL=https://pypi.example/simple", "npm_config_registry=https://npm.example/"}
	if !slices.Equal(env, want) {
		t.Errorf("env %q, want %q", env, want)
	}
	if got, want := worthTelling(withheld), []string{"AWS_SECRET_ACCESS_KEY", "npm_config__authToken", "FAVOURITE", "GOPROXY", "UV_INDEX_URL"}; !slices.Equal(got, want) {
		t.Errorf("worth telling %q, want %q", got, want)
	}
	if _, _, err := environment(own, []string{"NOT_THERE"}); err == nil || !strings.Contains(err.Error(), "NOT_THERE") {
		t.Errorf("a name that is not set: %v", err)
	}
	if env, _, _ := environment([]string{"A=0"}, []string{"A=2", "A=1"}); !slices.Equal(env, []string{"A=1"}) {
		t.Errorf("of two the last counts: %q", env)
	}
	if _, _, err := environment(own, []string{"=x"}); err == nil {
		t.Error("an empty name passes")
	}
}

// What would change how programs start, or lead them to the host's daemons, is nothing that CMD needs unasked.
func TestEnvironmentLeadsNowhere(t *testing.T) {
	for _, name := range strings.Fields(`LD_PRELOAD LD_LIBRARY_PATH LD_AUDIT GCONV_PATH LOCPATH MALLOC_TRACE GLIBC_TUNABLES HOSTALIASES LOCALDOMAIN RES_OPTIONS
		BASH_ENV ENV PS4 SHELLOPTS BASHOPTS BASH_FUNC_ls%% PROMPT_COMMAND NODE_OPTIONS NODE_PATH NODE_REPL_EXTERNAL_MODULE PYTHONSTARTUP PYTHONPATH PYTHONHOME
		PYTHONBREAKPOINT PERL5LIB PERL5OPT RUBYOPT RUBYLIB JAVA_TOOL_OPTIONS GIT_SSH GIT_SSH_COMMAND GIT_ASKPASS GIT_EXTERNAL_DIFF GIT_PROXY_COMMAND
		GIT_CONFIG_GLOBAL GIT_CONFIG_COUNT GIT_DIR SSH_ASKPASS SSH_AUTH_SOCK SUDO_ASKPASS PAGER EDITOR BROWSER LESSOPEN DBUS_SESSION_BUS_ADDRESS XDG_RUNTIME_DIR
		DOCKER_HOST CONTAINER_HOST DISPLAY WAYLAND_DISPLAY XAUTHORITY PULSE_SERVER GPG_AGENT_INFO KUBECONFIG VAULT_ADDR NOTIFY_SOCKET LISTEN_FDS
		JOURNAL_STREAM TMUX STY CARGO_BUILD_RUSTC_WRAPPER RUSTC_WRAPPER GOFLAGS CC MAKEFLAGS`) {
		env, withheld, err := environment([]string{name + "=x"}, nil)
		if err != nil || len(env) != 0 || !slices.Equal(withheld, []string{name}) {
			t.Errorf("%s: env %q, withheld %q, %v", name, env, withheld, err)
		}
	}
}

// Credentials in the families of variables that pass otherwise.
func TestCarriesSecret(t *testing.T) {
	for _, c := range []struct {
		name, value string
		secret      bool
	}{
		{"npm_config_key", "-----BEGIN PRIVATE KEY-----", true},
		{"MISE_SOPS_AGE_KEY", "AGE-SECRET-KEY-1", true},
		{"npm_config_otp", "123456", true},
		{"UV_INDEX_CORP_USERNAME", "oauth2accesstoken", true},
		{"UV_INDEX", "corp=https://u:p@pypi.example/simple", true},
		{"npm_config_proxy", "http://u:p%zz@proxy.example", true},
		{"npm_config_https_proxy", "u:p@proxy.example:8080", true},
		{"GOPROXY", "https://a.example|https://u:p@b.example,direct", true},
		{"UV_INDEX", "corp=https://pypi.example/simple", false},
		{"npm_config_registry", "https://npm.example/@scope/", false},
		{"PATH", "/opt/tool@2/bin:/usr/bin", false},
		{"LC_ALL", "ca_ES.UTF-8@valencia", false},
	} {
		if got := carriesSecret(c.name, c.value); got != c.secret {
			t.Errorf("%s=%s: %v", c.name, c.value, got)
		}
	}
}

func TestAppName(t *testing.T) {
	for _, c := range []struct{ command, want string }{
		{"npx -y @modelcontextprotocol/server-everything", "server-everything"},
		{"npx --yes @scope/pkg@1.2.3 --flag", "pkg"},
		{"npx -p typescript tsc", "tsc"},
		{"uvx --from git+https://x/y mcp-server", "mcp-server"},
		{"uvx postgres-mcp==0.3", "postgres-mcp"},
		{"uv tool run ruff", "ruff"},
		{"npm exec -- cowsay", "cowsay"},
		{"/usr/bin/node server.js", "node"},
		{"npx", "npx"},
		{"./my server", "my"},
	} {
		if got := appName(strings.Fields(c.command)); got != c.want {
			t.Errorf("appName(%q) = %q, want %q", c.command, got, c.want)
		}
	}
}

func TestParseShares(t *testing.T) {
	dir := t.TempDir()
	for _, c := range []struct {
		text, inside string
		readOnly, ok bool
	}{
		{dir, dir, false, true}, {dir + ":ro", dir, true, true}, {dir + ":/data", "/data", false, true}, {dir + ":/data:ro", "/data", true, true},
		{dir + ":data", "", false, false}, {dir + "/missing", "", false, false}, {dir + ":/a:/b:ro", "", false, false}, {":ro", "", false, false},
	} {
		s, err := parseShares([]string{c.text})
		if (err == nil) != c.ok {
			t.Errorf("%q: %v", c.text, err)
			continue
		}
		if c.ok && (s[0].Inside != c.inside || s[0].ReadOnly != c.readOnly || s[0].Host != dir) {
			t.Errorf("%q: %+v", c.text, s[0])
		}
	}
}
