//go:build linux && !client

package main

import (
	"fmt"
	"regexp"
	"slices"
	"sort"
	"strings"
)

// passedNames are the variables of weir's own environment that CMD sees without being named by --env: what programs need
// to find their files, speak the user's language and trust the host's certificate authorities. None of them may carry a
// credential; values that do (see carriesSecret) are withheld all the same.
var passedNames = []string{
	"PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TERM", "COLORTERM", "TZ", "CI",
	"NO_COLOR", "FORCE_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "COLUMNS", "LINES",
	"SSL_CERT_FILE", "SSL_CERT_DIR", "NIX_SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE",
	"GIT_SSL_CAINFO", "PIP_CERT", "AWS_CA_BUNDLE", "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", "DENO_CERT", "CARGO_HTTP_CAINFO",
	"HTTPLIB2_CA_CERTS", "CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE",
	"NODE_ENV", "NVM_DIR", "NVM_BIN", "VOLTA_HOME", "PNPM_HOME", "BUN_INSTALL", "DENO_DIR",
	"PYENV_ROOT", "PYENV_VERSION", "VIRTUAL_ENV", "CONDA_PREFIX", "PYTHONUNBUFFERED", "PYTHONIOENCODING", "PIP_INDEX_URL",
	"CARGO_HOME", "RUSTUP_HOME", "GOROOT", "GOPATH", "GOPROXY", "GOSUMDB", "GOTOOLCHAIN", "JAVA_HOME",
}

// passedPrefixes are families of settings of the tools that fetch and start servers.
var passedPrefixes = []string{"LC_", "npm_config_", "NPM_CONFIG_", "UV_", "MISE_", "ASDF_"}

// caFileNames are the variables whose value is a file that must be visible inside to be of use.
var caFileNames = []string{
	"SSL_CERT_FILE", "NIX_SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "GIT_SSL_CAINFO",
	"PIP_CERT", "AWS_CA_BUNDLE", "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", "DENO_CERT", "CARGO_HTTP_CAINFO",
}

// environment splits weir's own environment into what CMD sees and the names that are withheld, sorted. Each of extra is
// NAME, which passes weir's own value on, or NAME=VALUE; of those with one name the last counts, so that the command line
// has its way over the policy file. A NAME that is not set is an error: a server that starts without its credential fails
// later and more obscurely.
func environment(own, extra []string) (env, withheld []string, err error) {
	values := map[string]string{}
	for _, kv := range own {
		if name, value, ok := strings.Cut(kv, "="); ok && name != "" {
			values[name] = value
		}
	}
	named := map[string]string{}
	for _, e := range extra {
		name, value, set := strings.Cut(e, "=")
		if name == "" {
			return nil, nil, fmt.Errorf("--env %q: a name is missing before \"=\"", e)
		}
		if !set {
			if value, set = values[name]; !set {
				return nil, nil, hint(fmt.Errorf("--env %s, given or in the policy file: the variable is not set in weir's own environment", name), "%s=VALUE weir run ..., or --env %s=VALUE", name, name)
			}
		}
		named[name] = value
	}
	for name, value := range named {
		env = append(env, name+"="+value)
		delete(values, name)
	}
	for name, value := range values {
		switch {
		case passes(name) && !carriesSecret(name, value):
			env = append(env, name+"="+value)
		default:
			withheld = append(withheld, name)
		}
	}
	sort.Strings(env)
	sort.Strings(withheld)
	return env, withheld, nil
}

func passes(name string) bool {
	if slices.Contains(passedNames, name) {
		return true
	}
	return slices.ContainsFunc(passedPrefixes, func(p string) bool { return strings.HasPrefix(name, p) })
}

// secretWords mark names whose value is a credential, whatever family they belong to, secretEnds the ends of such names.
// A user name counts: many registries take the token there.
var (
	secretWords = []string{"token", "secret", "password", "passwd", "passphrase", "_auth", "apikey", "api_key", "credential", "private", "username"}
	secretEnds  = []string{"_key", "_otp"}
)

// urlCredential finds the user part of a URL anywhere in a value, be the URL well formed or not, and the token that conda
// puts into a path. What merely looks like one is withheld too.
var urlCredential = regexp.MustCompile(`://([^/?#\s]*@|\S*/t/)`)

// carriesSecret reports whether the variable would hand a credential to CMD: by its name, or as a part of a URL. A proxy
// may be written without a scheme.
func carriesSecret(name, value string) bool {
	return looksSecret(name) || urlCredential.MatchString(value) ||
		strings.Contains(value, "@") && strings.Contains(strings.ToLower(name), "proxy")
}

func looksSecret(name string) bool {
	lower := strings.ToLower(name)
	return slices.ContainsFunc(secretWords, func(w string) bool { return strings.Contains(lower, w) }) ||
		slices.ContainsFunc(secretEnds, func(end string) bool { return strings.HasSuffix(lower, end) })
}

// shellNoise are withheld variables that nobody would miss; they are not worth a line on the terminal.
var shellNoise = []string{"PWD", "OLDPWD", "SHLVL", "_", "LS_COLORS", "DISPLAY", "WAYLAND_DISPLAY", "HOSTNAME", "MAIL", "PS1",
	"TMPDIR", "EDITOR", "VISUAL", "PAGER", "LESS", "LESSOPEN", "LESSCLOSE", "WINDOWID", "GPG_TTY", "DEBIAN_FRONTEND"}

// shellNoisePrefixes are the families of such variables.
var shellNoisePrefixes = []string{"XDG_", "SSH_", "DBUS_", "GNOME_", "GTK_", "QT_", "KDE_", "TMUX", "VTE_", "TERM_", "LC_", "GIO_", "WEIR_"}

// shellName is a name that somebody may have set on purpose.
var shellName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// worthTelling filters withheld names down to those a user may have wanted to pass, secrets first.
func worthTelling(withheld []string) []string {
	var secrets, others []string
	for _, name := range withheld {
		switch {
		case !shellName.MatchString(name):
		case looksSecret(name) || strings.HasSuffix(name, "_KEY"):
			secrets = append(secrets, name)
		case slices.Contains(shellNoise, name) || slices.ContainsFunc(shellNoisePrefixes, func(p string) bool { return strings.HasPrefix(name, p) }):
		default:
			others = append(others, name)
		}
	}
	return append(secrets, others...)
}
