//go:build linux && !client

package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/weir-dev/weir/tunnel"
	"github.com/weir-dev/weir/tunnel/creds"
)

// systemKeys is where an edge that root runs has its keys.
const systemKeys = "/var/lib/weir/edge"

// keysDir is where the edge of this user has its keys: dir if it is given, root's in /var/lib.
func keysDir(dir string) (string, error) {
	if dir != "" {
		return filepath.Abs(dir)
	}
	if os.Geteuid() == 0 && !filepath.IsAbs(os.Getenv("XDG_STATE_HOME")) {
		return systemKeys, nil
	}
	state, err := stateDir()
	return filepath.Join(state, "edge"), err
}

// openKeys opens the edge's keys. Errors carry what mends them.
func openKeys(dir string, create bool) (*creds.Store, error) {
	dir, err := keysDir(dir)
	if err != nil {
		return nil, err
	}
	store, err := creds.OpenStore(creds.StoreConfig{Dir: dir, Create: create})
	var open *creds.PermissionError
	switch {
	case errors.As(err, &open):
		return nil, hint(err, "%s", openFix(open))
	case errors.Is(err, creds.ErrNoStore):
		return nil, hint(err, "weir keys token makes the first ones; --keys DIR if they are elsewhere")
	}
	return store, err
}

func newKeysCommand() *cobra.Command {
	dir := ""
	cmd := &cobra.Command{
		Use:   "keys",
		Short: "Say who may be a client of this edge's tunnel",
		Long: `Says who may be a client of this edge's tunnel: makes one-time tokens, lists clients, revokes them, and rotates the
authority that signs their certificates. An edge that is running need not be told: it looks four times a second.

The keys are in $XDG_STATE_HOME/weir/edge, for root in ` + systemKeys + `, or where --keys says.`,
		Example: `  (umask 077; weir keys token > token)        for the next machine of the space "default"
  weir keys token --space acme --client laptop
  weir keys list
  weir keys revoke --space acme laptop        ends its connections within a second
  weir keys rotate                            another authority, no connection is dropped`,
		Args: subcommandOnly,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.PersistentFlags().StringVar(&dir, "keys", "", "the `DIR` of the edge's keys")
	cmd.AddCommand(newKeysTokenCommand(&dir), newKeysListCommand(&dir), newKeysRevokeCommand(&dir), newKeysRotateCommand(&dir))
	return cmd
}

func newKeysTokenCommand(dir *string) *cobra.Command {
	r := creds.TokenRequest{}
	cmd := &cobra.Command{
		Use:   "token",
		Short: "Make a one-time token with which a machine becomes a client",
		Long: `Makes a one-time token with which a machine becomes a client of a space, and prints it on stdout, nothing else. It is
good for one enrolment and for the time that --ttl says. Whoever has it first is the client: hand it over in private.

Without --client it is for any name that is not in use; to enroll a machine again under its name while its certificate
still counts, it has to be for that name.`,
		Example: `  (umask 077; weir keys token > token)
  weir keys token --space acme --client laptop --ttl 1h
  ssh edge weir keys token | weir enroll --tunnel https://edge.example --token-file -`,
		Args: wants(),
		RunE: func(cmd *cobra.Command, _ []string) error { return makeToken(cmd, *dir, r) },
	}
	s := cmd.Flags()
	s.StringVar(&r.Space, "space", tunnel.DefaultSpace, "the `SPACE` that the client will belong to")
	s.StringVar(&r.Client, "client", "", "the one `NAME` that the token is for")
	s.DurationVar(&r.TTL, "ttl", creds.DefaultTTL, "how long it can be used")
	return cmd
}

func makeToken(cmd *cobra.Command, dir string, r creds.TokenRequest) error {
	if err := checkNames(r.Space, r.Client); err != nil {
		return err
	}
	if r.TTL < time.Second || r.TTL > creds.MaxTTL {
		return usageError{fmt.Errorf("--ttl %v: want 1s to %v", r.TTL, creds.MaxTTL)}
	}
	store, err := openKeys(dir, true)
	if err != nil {
		return err
	}
	token, err := store.NewToken(r)
	if err != nil {
		return err
	}
	if wantsJSON(cmd) {
		return writeJSON(cmd.OutOrStdout(), map[string]any{
			"token": token.Text(), "id": token.ID, "space": r.Space, "client": r.Client, "pin": token.Pin.String(),
			"expires": time.Now().Add(r.TTL).UTC().Truncate(time.Second),
		})
	}
	fmt.Fprintln(cmd.OutOrStdout(), token.Text())
	newUI(os.Stderr).sayf("good once, for %v; on the user's machine: weir connect --tunnel https://HOST:PORT --token-file FILE", r.TTL)
	return nil
}

func checkNames(space, client string) error {
	if err := creds.CheckName(space); err != nil {
		return usageError{fmt.Errorf("--space: %w", err)}
	}
	if client != "" {
		if err := creds.CheckName(client); err != nil {
			return usageError{fmt.Errorf("client: %w", err)}
		}
	}
	return nil
}

// keysListed is what "weir keys list --json" prints.
type keysListed struct {
	Clients     []clientListed    `json:"clients"`
	Authorities []authorityListed `json:"authorities"`
	Tokens      []creds.Waiting   `json:"tokens"`
}

type clientListed struct {
	Space      string    `json:"space"`
	Client     string    `json:"client"`
	State      string    `json:"state"` // active, expired, revoked
	Created    time.Time `json:"created"`
	Renewed    time.Time `json:"renewed"`
	Expires    time.Time `json:"expires"`
	Revoked    time.Time `json:"revoked,omitzero"`
	Enrolments int       `json:"enrolments"`
	Serials    []string  `json:"serials"` // of the certificates that count, the newest last
}

type authorityListed struct {
	ID      int       `json:"id"`
	Pin     string    `json:"pin"`
	Signs   bool      `json:"signs"`
	Retires time.Time `json:"retires,omitzero"`
}

func newKeysListCommand(dir *string) *cobra.Command {
	space := ""
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the clients, and what signs for them",
		Example: `  weir keys list
  weir keys list --space acme --json`,
		Args: wants(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			store, err := openKeys(*dir, false)
			if err != nil {
				return err
			}
			list, err := listKeys(store, space)
			if err != nil {
				return err
			}
			if wantsJSON(cmd) {
				return writeJSON(cmd.OutOrStdout(), list)
			}
			return list.table(cmd.OutOrStdout())
		},
	}
	cmd.Flags().StringVar(&space, "space", "", "only the clients and tokens of this `SPACE`")
	return cmd
}

func listKeys(store *creds.Store, space string) (*keysListed, error) {
	records, err := store.Clients()
	if err != nil {
		return nil, err
	}
	list := &keysListed{Clients: []clientListed{}, Tokens: []creds.Waiting{}}
	for _, r := range records {
		if space != "" && r.Space != space {
			continue
		}
		c := clientListed{Space: r.Space, Client: r.Client, State: "active", Created: r.Created, Renewed: r.Renewed,
			Expires: r.Expires, Revoked: r.Revoked, Enrolments: r.Enrolments, Serials: []string{}}
		switch {
		case !r.Revoked.IsZero():
			c.State = "revoked"
		case store.Check(r.Identity()) != nil:
			c.State = "expired"
		default:
			for _, i := range r.Issued {
				c.Serials = append(c.Serials, i.Serial)
			}
		}
		list.Clients = append(list.Clients, c)
	}
	authorities, err := store.Authorities()
	if err != nil {
		return nil, err
	}
	for _, a := range authorities {
		list.Authorities = append(list.Authorities, authorityListed{a.ID, a.Pin.String(), a.Retires.IsZero(), a.Retires})
	}
	waiting, err := store.Waiting()
	if err != nil {
		return nil, err
	}
	for _, t := range waiting {
		if space == "" || t.Space == space {
			list.Tokens = append(list.Tokens, t)
		}
	}
	return list, nil
}

func (l *keysListed) table(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "SPACE\tCLIENT\tSTATE\tEXPIRES\tRENEWED\tENROLLED")
	for _, c := range l.Clients {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", c.Space, c.Client, c.State, when(c.Expires), when(c.Renewed), when(c.Created))
	}
	for _, t := range l.Tokens {
		name := t.Client
		if name == "" {
			name = "*"
		}
		fmt.Fprintf(w, "%s\t%s\ttoken %s\t%s\t\t\n", t.Space, name, t.ID, when(t.Expires))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	_, err := io.WriteString(out, l.authorities())
	return err
}

func (l *keysListed) authorities() string {
	var b strings.Builder
	for _, a := range l.Authorities {
		if a.Signs {
			fmt.Fprintf(&b, "authority %d signs, pin %s\n", a.ID, a.Pin)
		} else {
			fmt.Fprintf(&b, "authority %d counts until %s, pin %s\n", a.ID, when(a.Retires), a.Pin)
		}
	}
	return b.String()
}

func when(t time.Time) string { return t.Local().Format(time.DateTime) }

func newKeysRevokeCommand(dir *string) *cobra.Command {
	id := tunnel.Identity{}
	cmd := &cobra.Command{
		Use:   "revoke CLIENT",
		Short: "End a client: its connections, its certificates, and the tokens for its name",
		Long: `Ends a client: its connections within a second, its certificates, and the tokens that are for its name. The name can be
enrolled again, with another key and a token that was made afterwards.`,
		Example: `  weir keys revoke laptop
  weir keys revoke --space acme laptop`,
		Args: wants("CLIENT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			id.Client = args[0]
			if err := checkNames(id.Space, id.Client); err != nil {
				return err
			}
			store, err := openKeys(*dir, false)
			if err != nil {
				return err
			}
			err = store.Revoke(id)
			switch {
			case errors.Is(err, creds.ErrNoClient):
				return hint(err, "weir keys list")
			case err != nil:
				return err
			case wantsJSON(cmd):
				return writeJSON(cmd.OutOrStdout(), map[string]string{"space": id.Space, "client": id.Client, "state": "revoked"})
			}
			fmt.Fprintf(cmd.OutOrStdout(), "revoked %s\n", id)
			return nil
		},
	}
	cmd.Flags().StringVar(&id.Space, "space", tunnel.DefaultSpace, "the `SPACE` of the client")
	return cmd
}

func newKeysRotateCommand(dir *string) *cobra.Command {
	now := false
	cmd := &cobra.Command{
		Use:   "rotate",
		Short: "Make another authority, which signs from now on",
		Long: `Makes another authority, which signs from now on. The one before counts for 25 hours more, until all that it has signed has
expired: clients learn of the new one when they renew, and no connection is dropped. Tokens that are out stay good.

With --now the one before ends at once, for when its key may be in somebody else's hands: all connections end, tokens that
are out are void, and each client needs a new one. The keys by which QUIC makes stateless resets are not rotated: they identify nobody.`,
		Example: `  weir keys rotate
  weir keys rotate --now        the keys were stolen`,
		Args: wants(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			store, err := openKeys(*dir, false)
			if err != nil {
				return err
			}
			_, err = store.Rotate(now)
			var rotating *creds.RotatingError
			if errors.As(err, &rotating) {
				return hint(err, "wait until then, or if the keys were stolen: weir keys rotate --now")
			}
			if err != nil {
				return err
			}
			list, err := listKeys(store, "")
			if err != nil {
				return err
			}
			if wantsJSON(cmd) {
				return writeJSON(cmd.OutOrStdout(), map[string]any{"authorities": list.Authorities})
			}
			_, err = io.WriteString(cmd.OutOrStdout(), list.authorities())
			return err
		},
	}
	cmd.Flags().BoolVar(&now, "now", false, "do not wait for the clients: the old authority ends at once")
	return cmd
}
