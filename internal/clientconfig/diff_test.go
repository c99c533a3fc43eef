package clientconfig

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestDiff(t *testing.T) {
	numbers := func(from, to int) string {
		var b strings.Builder
		for i := from; i <= to; i++ {
			fmt.Fprintln(&b, i)
		}
		return b.String()
	}
	tests := []struct{ name, before, after, want string }{
		{"equal", "a\n", "a\n", ""},
		{"one line", numbers(1, 9), strings.Replace(numbers(1, 9), "5", "five", 1), "@@ -2,7 +2,7 @@\n 2\n 3\n 4\n-5\n+five\n 6\n 7\n 8\n"},
		{"two hunks", numbers(1, 30), "0\n" + numbers(1, 29), "@@ -1,3 +1,4 @@\n+0\n 1\n 2\n 3\n@@ -27,4 +28,3 @@\n 27\n 28\n 29\n-30\n"},
		{"from nothing", "", "a\n", "@@ -0,0 +1 @@\n+a\n"},
		{"to nothing", "a\nb\n", "", "@@ -1,2 +0,0 @@\n-a\n-b\n"},
		{"no newline", "a", "b", "@@ -1 +1 @@\n-a\n\\ No newline at end of file\n+b\n\\ No newline at end of file\n"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			want := test.want
			if want != "" {
				want = "--- f\n+++ f\n" + want
			}
			if got := Diff("f", []byte(test.before), []byte(test.after)); got != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}

// What patch(1) makes of the diff is the new content, also when the comparison gives up on the middle.
func TestPatchUnderstands(t *testing.T) {
	if _, err := exec.LookPath("patch"); err != nil {
		t.Skip(err)
	}
	var long [2]strings.Builder
	for i := range 3000 {
		fmt.Fprintln(&long[0], i)
		fmt.Fprintln(&long[1], i%1499)
	}
	cases := [][2]string{{long[0].String(), long[1].String()}}
	for _, g := range goldens(t) {
		cases = append(cases, [2]string{g.before, g.after})
	}
	for i, c := range cases {
		path := filepath.Join(t.TempDir(), "f")
		if err := os.WriteFile(path, []byte(c[0]), 0o600); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("patch", "-s", path)
		cmd.Stdin = strings.NewReader(Diff("f", []byte(c[0]), []byte(c[1])))
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("case %d: %v: %s", i, err, out)
		}
		if got, _ := os.ReadFile(path); string(got) != c[1] {
			t.Errorf("case %d: patched file differs", i)
		}
	}
}
