package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/spf13/cobra"

	"github.com/weir-dev/weir/tunnel/creds"
)

// enrollFlags are the flags of "weir enroll".
type enrollFlags struct {
	tunnel, tunnelCA, tokenFile, name string
}

func newEnrollCommand() *cobra.Command {
	f := &enrollFlags{}
	cmd := &cobra.Command{
		Use:   "enroll --tunnel https://HOST:PORT --token-file FILE",
		Short: "Bring a one-time token to an edge and keep the credentials that it gives",
		Long: `Brings a one-time token to an edge and keeps the credentials that it gives: a key, which is made here and never leaves
this machine, and a certificate of 24 hours that "weir connect" renews while it runs.

The token comes from whoever runs the edge ("weir keys token"). It is read from a file or stdin, never from the command
line, where other users and the shell's history would see it. It says which edge it is for: no other can take it.`,
		Example: `  weir enroll --tunnel https://edge.example:443 --token-file token
  ssh edge weir keys token | weir enroll --tunnel https://edge.example --token-file -
  WEIR_TOKEN_FILE=token weir enroll --tunnel https://edge.example --client laptop`,
		Args: wants(),
		RunE: func(cmd *cobra.Command, _ []string) error { return f.run(cmd) },
	}
	s := cmd.Flags()
	s.StringVar(&f.tunnel, "tunnel", "", "the edge, `https://HOST:PORT`")
	s.StringVar(&f.tunnelCA, "tunnel-ca", "", "root certificates, a PEM `FILE`, where a proxy breaks the TLS around a WebSocket (the tunnel inside stays private)")
	s.StringVar(&f.tokenFile, "token-file", "", "the token: a `FILE`, or - for stdin (also: WEIR_TOKEN_FILE)")
	s.StringVar(&f.name, "client", "", "what this machine is to be called, a `NAME` (default: its host name; a token for one name has its way)")
	return cmd
}

// enrolledResult is what --json prints.
type enrolledResult struct {
	Edge    string    `json:"edge"`
	Space   string    `json:"space"`
	Client  string    `json:"client"`
	Expires time.Time `json:"expires"`
	Dir     string    `json:"dir"`
}

func (f *enrollFlags) run(cmd *cobra.Command) error {
	edge, err := parseEdge(f.tunnel)
	if err == nil {
		err = edge.trust(f.tunnelCA)
	}
	if err != nil {
		return err
	}
	if f.name != "" {
		if err := creds.CheckName(f.name); err != nil {
			return usageError{fmt.Errorf("--client: %w", err)}
		}
	}
	u := newUI(os.Stderr)
	token, err := readToken(f.tokenFile, u)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt)
	defer stop()
	client, dir, err := enroll(ctx, edge, token, f.name)
	if err != nil {
		return err
	}
	warnOfSkew(u, client.Skew)
	id := client.Identity()
	if wantsJSON(cmd) {
		return writeJSON(cmd.OutOrStdout(), enrolledResult{edge.String(), id.Space, id.Client, client.Expires(), dir})
	}
	fmt.Fprintf(cmd.OutOrStdout(), "enrolled at %s as %s in space %s, until %s\n", edge, id.Client, id.Space, client.Expires().Local().Format(time.DateTime))
	u.sayf("connect now, which also renews the credentials: weir connect --tunnel %s", edge.url())
	return nil
}

// enroll brings the token to the edge. An empty name stands for that of the machine.
func enroll(ctx context.Context, edge edgeAddress, token creds.Token, name string) (*creds.Enrolled, string, error) {
	if name == "" {
		host, _ := os.Hostname()
		name = creds.SafeName(host)
	}
	dir, err := credentialsDir(edge)
	if err != nil {
		return nil, "", err
	}
	conn, err := dialToEnroll(ctx, edge, token)
	if err != nil {
		return nil, "", credentialsHint(fmt.Errorf("enroll at %s: %w", edge, oneLine{err}), edge)
	}
	defer conn.close()
	client, err := creds.Enroll(ctx, conn.Conn, creds.EnrollRequest{Token: token, Name: name, ClientConfig: creds.ClientConfig{Dir: dir}})
	if err != nil {
		return nil, "", credentialsHint(fmt.Errorf("%s: %w", edge, oneLine{err}), edge)
	}
	return client, dir, nil
}

// skewWorthTelling is how far clocks may be apart before certificates begin or end at a wrong time.
const skewWorthTelling = 2 * time.Minute

func warnOfSkew(u *ui, skew time.Duration) {
	if skew > -skewWorthTelling && skew < skewWorthTelling {
		return
	}
	direction := "ahead of"
	if skew < 0 {
		direction = "behind"
	}
	u.warnf("this machine's clock is %v %s the edge's", skew.Abs().Round(time.Second), direction)
	u.fix(clockFix())
}

// credentialsHint adds what mends an error of the credentials.
func credentialsHint(err error, edge edgeAddress) error {
	var refusal creds.Refusal
	var clock *creds.ClockError
	var open *creds.PermissionError
	again := "ask whoever runs the edge for a token (weir keys token), then: weir enroll --tunnel " + edge.url() + " --token-file FILE"
	switch {
	case errors.As(err, &refusal):
		return refusalHint(err, refusal, edge)
	case errors.As(err, &clock):
		return hint(err, "%s", clockFix())
	case errors.As(err, &open):
		return hint(err, "%s", openFix(open))
	case errors.Is(err, creds.ErrPin):
		return hint(err, "check HOST:PORT in --tunnel, and what stands between; if the edge's keys were made anew, %s", again)
	case errors.Is(err, creds.ErrNotEnrolled), errors.Is(err, creds.ErrExpired), errors.Is(err, creds.ErrRejected):
		return hint(err, "%s", again)
	case isTimeout(err):
		return hint(err, "check that %s is right, and that UDP to it is let through", edge)
	case isNoEdge(err):
		return hint(err, "check HOST:PORT in --tunnel: what answers there speaks QUIC and is no weir edge")
	}
	return err
}

func refusalHint(err error, r creds.Refusal, edge edgeAddress) error {
	switch r {
	case creds.RefusedToken, creds.RefusedUsed, creds.RefusedExpired:
		return hint(err, "have another one made for this machine, on the edge: weir keys token")
	case creds.RefusedName:
		return hint(err, "weir enroll --tunnel %s --token-file FILE --client ANOTHER\nor, if it is the same machine, have a token made for its name, on the edge: weir keys token --client NAME", edge.url())
	case creds.RefusedBusy:
		return hint(err, "wait a minute")
	}
	return err
}

// openFix takes from others what they can do to a file.
func openFix(e *creds.PermissionError) string {
	if e.UID >= 0 {
		return fmt.Sprintf("run weir as the user that %s belongs to", e.Path)
	}
	return fmt.Sprintf("chmod %o %s (and if somebody else may have read it: enroll anew, or on the edge weir keys rotate --now)", e.Mode, e.Path)
}

func isTimeout(err error) bool {
	var idle *quic.IdleTimeoutError
	var handshake *quic.HandshakeTimeoutError
	return errors.As(err, &idle) || errors.As(err, &handshake) || errors.Is(err, context.DeadlineExceeded)
}

// isNoEdge reports whether a QUIC server did not know our protocol (alert no_application_protocol, RFC 7301).
func isNoEdge(err error) bool {
	var t *quic.TransportError
	return errors.As(err, &t) && t.ErrorCode.IsCryptoError() && t.ErrorCode&0xff == 120
}
