//go:build linux

package sandbox

import (
	"fmt"
	"testing"
)

// limitRows are the walls of limits.go: what CMD may use up.
func limitRows(h host) []wallRow {
	// The shell looks on without making a process itself, for which there is no room in the end.
	bomb := "GOTRACEBACK=none " + h.self + ` >/dev/null 2>&1 & most=0
		while kill -0 $! 2>/dev/null; do while read key n; do [ "$key" = Threads: ] && [ $n -gt $most ] && most=$n; done 2>/dev/null </proc/$!/status; done; echo $most`
	threads := wallRow{name: "a fork bomb ends", want: `(3[5-9]|40)\d\d`,
		spec: func(s *Spec) { h.runProbe("threads")(s); s.Command = []string{"sh", "-c", bomb} },
	}
	if !limitsProcesses(kernelVersion(), h.uid) {
		threads.script, threads.spec, threads.want = `echo not here`, nil, `not here`
	}
	return []wallRow{
		threads,
		{name: "resource limits", script: `sed -n 's/  */ /g; /core\|processes\|open\|locked mem\|signals\|msgqueue\|priority/p' /proc/self/limits | cut -d' ' -f2- | sort`,
			want: fmt.Sprintf(`core file size \d \d bytes\s*\nlocked memory \d+ \d+ bytes\s*\nmsgqueue size \d+ \d+ bytes\s*\nnice priority 0 0\s*\n` +
				`open files (1024|\d{1,3}) \d{1,5} files\s*\npending signals \d{1,4} \d{1,4} signals\s*\nprocesses \d{1,4} \d{1,4} processes\s*\nrealtime priority 0 0`)},
		{name: "the core handler is not started", script: `grep -c 'core file size  *1  *1 ' /proc/self/limits; kill -SEGV $$`, want: `1`, code: 139},
		{name: "no more namespaces", script: `cat /proc/sys/user/max_*_namespaces | tr '\n' ' '`, want: `(0 ){7,8}?0?`},
		{name: "watches of files", script: `cat /proc/sys/user/max_inotify_instances`, want: fmt.Sprint(maxInotify)},
		{name: "the first to go when memory runs out", script: `cat /proc/self/oom_score_adj /proc/1/oom_score_adj`, want: `(500|[6-9]\d\d|1000)\n\d+`},
		{name: "pseudo-terminals", script: `grep -o 'max=[0-9]*' /proc/self/mountinfo`, want: maxTerminals},
		{name: "memory that is a disk", spec: h.runProbe("disks /tmp /var/tmp /run /dev/shm /home/someone"),
			want: `/tmp true true\n/var/tmp true true\n/run true true\n/dev/shm true true\n/home/someone true true`},
	}
}

func TestProcessLimitByKernel(t *testing.T) {
	for _, row := range []struct {
		kernel version
		uid    int
		want   bool
	}{
		{version{6, 14}, 0, true}, {version{7, 0}, 0, true}, {version{6, 13}, 0, false}, {version{6, 13}, 1000, true},
		{version{5, 14}, 1000, true}, {version{5, 12}, 1000, false}, {version{}, 1000, false},
	} {
		if got := limitsProcesses(row.kernel, row.uid); got != row.want {
			t.Errorf("%+v: %v", row, got)
		}
	}
	if v := kernelVersion(); v.major < 5 {
		t.Errorf("this kernel is %+v", v)
	}
}
