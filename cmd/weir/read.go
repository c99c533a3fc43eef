//go:build linux && !client

package main

import (
	"bufio"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/weir-dev/weir/flow/event"
	"github.com/weir-dev/weir/internal/capture"
)

func newReadCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "read FILE",
		Short: "Name the flows and DNS queries in a packet capture",
		Long: `Read a packet capture (pcap or pcapng, - for stdin) with the sniffers of "weir run": one JSON line for each flow
(network-connect, without a verdict) and each DNS query (dns-query). On a terminal a table is printed instead, unless
--json is given.

A name in a flow is what its first bytes claim (TLS and QUIC server name, HTTP Host or CONNECT); nothing vouches for it.
A claim that cannot be used has the reason "malformed".
A damaged file is read up to the damage; then the exit status is 1.`,
		Example: `  weir read trace.pcapng
  weir read trace.pcap | jq -r 'select(.details.hostname != "") | .details.hostname' | sort | uniq -c
  tcpdump -U -w - port 443 | weir read -`,
		Args: wants("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			f, name, err := openCapture(cmd, args[0])
			if err != nil {
				return err
			}
			defer f.Close()
			return readCapture(f, name, newFlowPrinter(cmd.OutOrStdout(), wantsJSON(cmd)), &ui{w: cmd.ErrOrStderr()})
		},
	}
}

// openCapture opens the file, or stdin for "-", and says what to call it.
func openCapture(cmd *cobra.Command, path string) (io.ReadCloser, string, error) {
	if path == "-" {
		return io.NopCloser(cmd.InOrStdin()), "stdin", nil
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, "", fmt.Errorf("open capture: %w", err)
	}
	return f, path, nil
}

// readCapture prints what is in the capture and says what could not be read.
func readCapture(r io.Reader, name string, out *flowPrinter, u *ui) error {
	stats, err := capture.Read(&watchedReader{r, out}, out)
	if flushErr := out.flush(); flushErr != nil {
		return fmt.Errorf("write events: %w", flushErr)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if stats.Unsupported > 0 {
		u.warnf("%s: %d of %d packets have a link type that is not supported (%d)", name, stats.Unsupported, stats.Frames, stats.LinkType)
	}
	if stats.Evicted > 0 {
		u.warnf("%s: %d flows were cut short because too many were open at once", name, stats.Evicted)
	}
	return nil
}

// watchedReader flushes what was printed before it waits for more input, and stops when nothing can be printed any more.
type watchedReader struct {
	r   io.Reader
	out *flowPrinter
}

func (w *watchedReader) Read(b []byte) (int, error) {
	if err := w.out.flush(); err != nil {
		return 0, err
	}
	return w.r.Read(b)
}

// flowPrinter is the sink that writes to stdout: JSON Lines, or a table on a terminal.
type flowPrinter struct {
	w     *bufio.Writer
	table bool
	head  bool // the table's head was printed
	line  []byte
}

func newFlowPrinter(w io.Writer, asJSON bool) *flowPrinter {
	f, ok := w.(*os.File)
	return &flowPrinter{w: bufio.NewWriterSize(w, 64<<10), table: !asJSON && ok && term.IsTerminal(int(f.Fd()))}
}

func (p *flowPrinter) flush() error { return p.w.Flush() }

// Emit implements [event.Sink]. The first error of the writer stays and shows in flush.
func (p *flowPrinter) Emit(e *event.Event) {
	if p.table {
		p.row(e)
		return
	}
	p.line = append(e.AppendJSON(p.line[:0]), '\n')
	p.w.Write(p.line)
}

const readRow = "%-15s  %-5s  %-24s  %-24s  %s\n"

func (p *flowPrinter) row(e *event.Event) {
	if !p.head {
		fmt.Fprintf(p.w, readRow, "TIME", "PROTO", "FROM", "TO", "NAME")
		p.head = true
	}
	at := e.Time.UTC().Format("15:04:05.000000")
	switch d := e.Details.(type) {
	case *event.Connect:
		fmt.Fprintf(p.w, readRow, at, d.Protocol, endpointText(d.Src), endpointText(d.Dst), event.Escape(connectText(d)))
	case *event.DNSQuery:
		fmt.Fprintf(p.w, readRow, at, "dns", "", event.Escape(d.Server), event.Escape(queryText(d)))
	}
}

func endpointText(a netip.AddrPort) string {
	if a.Port() == 0 {
		return a.Addr().String()
	}
	return a.String()
}

// connectText is what a flow claims: the name, where it stood, and the names that came later.
func connectText(d *event.Connect) string {
	switch {
	case d.Hostname == "" && d.Reason != "":
		return "(" + d.Reason + ")"
	case d.Hostname == "":
		return "-"
	}
	text := d.Hostname + " (" + d.NameSource + ")"
	if d.Reason != "" {
		text = d.Hostname + " (" + d.NameSource + ", " + d.Reason + ")"
	}
	if len(d.Names) > 1 {
		text += ", then " + strings.Join(d.Names[1:], ", ")
	}
	return text
}

// queryText is a question and, behind an arrow, what came of it.
func queryText(d *event.DNSQuery) string {
	text := d.Hostname + " " + d.QType
	switch {
	case d.RCode == "":
		return text + " (no answer)"
	case d.RCode != "NOERROR" || len(d.Answers) == 0:
		return text + " -> " + d.RCode
	}
	return text + " -> " + strings.Join(d.Answers, ", ")
}
