//go:build linux

package sandbox

import "testing"

// BenchmarkTrue is everything from Start until `true` has ended and is reaped.
func BenchmarkTrue(b *testing.B) {
	for _, link := range []string{"tap", "veth"} {
		b.Run(link, func(b *testing.B) {
			spec := testSpec("")
			spec.Command, spec.Link = []string{"true"}, link
			for b.Loop() {
				if status, err := run(spec); err != nil || status != (ExitStatus{}) {
					b.Fatal(status, err)
				}
			}
		})
	}
}

// BenchmarkStart is the part before CMD.
func BenchmarkStart(b *testing.B) {
	spec := testSpec("true")
	for b.Loop() {
		s, err := Start(spec)
		if err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		s.Close()
		b.StartTimer()
	}
}
