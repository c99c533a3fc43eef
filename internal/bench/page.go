//go:build linux

package bench

import (
	"html/template"
	"io"
	"math"
	"strings"

	"github.com/weir-dev/weir/flow/event"
)

// chart is one metric as bars.
type chart struct {
	Title, Unit string
	Less        bool // less is better
	Bars        []bar
}

type bar struct {
	Label, Number, More string
	Width               int // percent of the longest
	Kind                string
	Shaky               bool
}

// charts are the table's lines but for the percentiles, which stand beside the bars that they belong to.
func (res *Result) charts() (out []chart) {
	seen := map[string]bool{}
	for _, r := range res.Rows {
		key := r.key()
		if seen[key] || strings.HasPrefix(r.Metric, "rss_p") && r.Metric != "rss_per_flow" {
			continue
		}
		seen[key] = true
		c := chart{Title: r.Title(), Unit: r.Unit, Less: r.Metric == "start_ms" || strings.HasPrefix(r.Metric, "rss_")}
		longest := 0.0
		for _, s := range res.measured() {
			if r := res.find(s, key); r != nil {
				longest = max(longest, r.Value)
			}
		}
		for _, s := range res.measured() {
			r := res.find(s, key)
			if r == nil {
				continue
			}
			b := bar{Label: event.Escape(s.Label()), Number: number(r.Value, true), Kind: kindOf(s), Shaky: r.shaky()}
			if longest > 0 {
				b.Width = int(math.Round(100 * max(r.Value, 0) / longest))
			}
			if r.P99 != 0 {
				b.More = "p50 " + number(float64(r.P50), true) + " us, p99 " + number(float64(r.P99), true) + " us"
			} else if r.CPU != 0 && r.Metric == "throughput" {
				b.More = "CPU " + number(float64(r.CPU), true) + " s/GB"
			}
			c.Bars = append(c.Bars, b)
		}
		out = append(out, c)
	}
	return out
}

// kindOf is the class of a bar: the host, a door, or a peer.
func kindOf(s *Subject) string {
	switch {
	case s.Name == "host":
		return "host"
	case s.Link != "" || s.tunnel != "":
		return "door"
	}
	return "peer"
}

// WriteHTML writes the result as one page that needs nothing else: no script, no font, no picture from anywhere.
func (res *Result) WriteHTML(w io.Writer) error {
	return page.Execute(w, struct {
		Machine  Machine
		Facts    []string
		Charts   []chart
		Targets  [][]string
		Failures []string
	}{res.Machine, res.facts(), res.charts(), res.targetGrid(), res.failures()})
}

var page = template.Must(template.New("bench").Parse(`<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>weir bench, {{.Machine.Date}}</title>
<style>
:root { --back: #fff; --text: #1c2126; --dim: #5c6770; --line: #d8dee3; --door: #1769aa; --peer: #a9b4bd; --host: #6b7780; --good: #1a7f37; --bad: #c0262d; }
@media (prefers-color-scheme: dark) {
  :root { --back: #14181c; --text: #e4e8eb; --dim: #97a3ad; --line: #2c343b; --door: #5aaef0; --peer: #55616b; --host: #8b97a0; --good: #4ac26b; --bad: #ff7b72; }
}
body { background: var(--back); color: var(--text); font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.05rem; margin: 2rem 0 .4rem; } h2 small { color: var(--dim); font-weight: normal; }
ul { color: var(--dim); padding-left: 1.2rem; } li { overflow-wrap: anywhere; }
.bars { display: grid; grid-template-columns: 11rem 1fr 17rem; gap: .25rem .75rem; align-items: center; }
@media (max-width: 45rem) { .bars { grid-template-columns: 7rem 1fr 7rem; } .more { display: block; } }
.track { height: 1.1rem; } .bar { height: 100%; min-width: 2px; border-radius: 2px; }
.door { background: var(--door); } .peer { background: var(--peer); } .host { background: var(--host); }
.value { font-variant-numeric: tabular-nums; } .more { color: var(--dim); font-size: .85em; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid var(--line); padding: .25rem .7rem; text-align: right; white-space: nowrap; }
th:nth-child(-n+2), td:nth-child(-n+2) { text-align: left; }
.met { color: var(--good); } .missed { color: var(--bad); font-weight: bold; }
</style>
</head>
<body>
<h1>weir bench</h1>
<ul>{{range .Facts}}<li>{{.}}</li>
{{end}}</ul>
{{range .Charts}}<h2>{{.Title}} <small>{{.Unit}}{{if .Less}}, less is better{{end}}</small></h2>
<div class="bars">
{{range .Bars}}<span>{{.Label}}</span><div class="track"><div class="bar {{.Kind}}" style="width: {{.Width}}%"></div></div><span class="value">{{if .Shaky}}~{{end}}{{.Number}} <span class="more">{{.More}}</span></span>
{{end}}</div>
{{end}}{{with .Targets}}<h2>Targets <small>ratios, unless the target names a unit</small></h2>
<div class="scroll"><table>
{{range $i, $row := .}}<tr>{{range $row}}{{if eq $i 0}}<th>{{.}}</th>{{else}}<td{{if eq . "MISSED"}} class="missed"{{else if or (eq . "aim met") (eq . "floor met")}} class="met"{{end}}>{{.}}</td>{{end}}{{end}}</tr>
{{end}}</table></div>
{{end}}{{with .Failures}}<h2>Went wrong on the way</h2>
<ul>{{range .}}<li>{{.}}</li>
{{end}}</ul>
{{end}}</body>
</html>
`))
