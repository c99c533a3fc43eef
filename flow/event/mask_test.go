package event

import (
	"slices"
	"strings"
	"testing"
)

func TestMaskArgs(t *testing.T) {
	tests := []struct{ in, want string }{ // arguments are separated by |
		{"node|server.js|--port|8080", "node|server.js|--port|8080"},
		{"srv|--token|hunter2", "srv|--token|***"},
		{"srv|--token=hunter2|x", "srv|--token=***|x"},
		{"srv|-api-key|hunter2", "srv|-api-key|***"},
		{"srv|--apiKey|hunter2", "srv|--apiKey|***"},
		{"srv|--client_secret|hunter2|--verbose", "srv|--client_secret|***|--verbose"},
		{"srv|--password|--verbose", "srv|--password|--verbose"},
		{"env|OPENAI_API_KEY=sk|srv", "env|OPENAI_API_KEY=***|srv"},
		{"docker|run|-e|GITHUB_TOKEN=abc|-e|HOME=/x|img", "docker|run|-e|GITHUB_TOKEN=***|-e|HOME=/x|img"},
		{"docker|run|-e|GITHUB_TOKEN|img", "docker|run|-e|GITHUB_TOKEN|img"},
		{"docker|run|-p|8080:80|img", "docker|run|-p|8080:80|img"},
		{"npx|-y|-p|@scope/pkg|cmd", "npx|-y|-p|@scope/pkg|cmd"},
		{"mysql|-u|root|-p|hunter2|db", "mysql|-u|root|-p|***|db"},
		{"mysql|-uroot|-phunter2|db", "mysql|-uroot|-p***|db"},
		{"sshpass|-p|hunter2|ssh|h", "sshpass|-p|***|ssh|h"},
		{"client|--user|u|-p|5432", "client|--user|u|-p|5432"},
		{"curl|-u|me:hunter2|https://h.example/", "curl|-u|me:***|https://h.example/"},
		{"curl|https://me:hunter2@h.example/x", "curl|https://***@h.example/x"},
		{"git|clone|https://ghp_abc@github.example/x", "git|clone|https://***@github.example/x"},
		{"srv|postgres://u:p@ss/w@rd@db:5432/x?sslmode=off", "srv|postgres://***@db:5432/x?sslmode=off"},
		{"srv|https://h.example:8080/@scope/pkg", "srv|https://h.example:8080/@scope/pkg"},
		{"srv|https://h.example/?api_key=hunter2&x=1#token=t", "srv|https://h.example/?api_key=***&x=1#token=***"},
		{"srv|a https://u:p@h1/ b https://u:p@h2/", "srv|a https://***@h1/ b https://***@h2/"},
		{"srv|root:hunter2@tcp(db:3306)/x", "srv|***@tcp(db:3306)/x"},
		{"srv|host=db user=u password=hunter2 dbname=x", "srv|host=db user=u password=*** dbname=x"},
		{"srv|Server=db;Password=hunter2;Database=x", "srv|Server=db;Password=***;Database=x"},
		{"curl|-H|Authorization: Bearer abc.def", "curl|-H|Authorization: ***"},
		{"curl|-H|X-Api-Key: abc|-H|Accept: */*", "curl|-H|X-Api-Key: ***|-H|Accept: */*"},
		{`srv|{"apiKey":"hunter2","port":1}`, `srv|{"apiKey":"***","port":1}`},
		{"sh|-c|srv --token hunter2 --port 1", "sh|-c|srv --token *** --port 1"},
		{"sh|-c|TOKEN=hunter2 srv; curl -H 'Authorization: Bearer x' h", "sh|-c|TOKEN=***"},
		{"sh|-c|exec env TOKEN='hunter2 x' srv", "sh|-c|exec env TOKEN='***' srv"},
		{"sh|-c|curl -H 'Authorization: Bearer x' h", "sh|-c|curl -H 'Authorization: ***' h"},
		{"srv|ghp_0123456789abcdefghijklmnopqrstuvwxyz", "srv|***"},
		{"srv|sk-proj-0123456789abcdefghijklmnop,next", "srv|***,next"},
		{"srv|--keyboard=us|monkey=1|--port=1", "srv|--keyboard=us|monkey=1|--port=1"},
		{"srv|task-0123456789abcdefghijklmnop", "srv|task-0123456789abcdefghijklmnop"},
		{"", ""},
	}
	for _, test := range tests {
		t.Run(test.in, func(t *testing.T) {
			in := strings.Split(test.in, "|")
			before := slices.Clone(in)
			got := MaskArgs(in)
			if s := strings.Join(got, "|"); s != test.want {
				t.Errorf("got  %s\nwant %s", s, test.want)
			}
			if !slices.Equal(in, before) {
				t.Error("the argument was changed")
			}
			if again := MaskArgs(got); !slices.Equal(again, got) {
				t.Errorf("masked twice: %q", again)
			}
		})
	}
}

func FuzzMaskArgs(f *testing.F) {
	f.Add("--token", "x", "https://u:p@h/?key=1")
	f.Add("mysql", "-px", "password=\"x")
	f.Add("sh", "-c", "a 'Authorization: Bearer x' ghp_0123456789abcdefghij")
	f.Fuzz(func(t *testing.T, a, b, c string) {
		got := MaskArgs([]string{a, b, c})
		if len(got) != 3 {
			t.Fatalf("%d arguments", len(got))
		}
		const secret = "hunter2hunter2"
		for _, args := range [][]string{
			{a, "--token", secret}, {a, "--password=" + secret, b}, {a, "API_KEY=" + secret}, {a, "https://u:" + secret + "@h/"},
		} {
			if strings.ContainsAny(a, "\"'") || strings.Contains(a, secret) || strings.Contains(b, secret) {
				return
			}
			if s := strings.Join(MaskArgs(args), " "); strings.Contains(s, secret) {
				t.Fatalf("%q: %q", args, s)
			}
		}
	})
}
