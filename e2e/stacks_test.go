package e2e

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	client "github.com/mayfly-run/mayfly/sdk/go"
)

// TestSoakStacks builds every stack and says hello from each; make soak runs it,
// because that takes a quarter of an hour. MAYFLY_STACKS has the names of those to
// try instead of all.
func TestSoakStacks(t *testing.T) {
	only := os.Getenv("MAYFLY_STACKS")
	if os.Getenv("MAYFLY_SOAK") == "" && only == "" {
		t.Skip("this takes its time: make soak")
	}
	n := start(t)
	for _, tt := range []struct {
		stack string
		flags []string
	}{
		{"static", nil},
		{"bash", []string{"--protocol", "cgi", "-c", "bash hello.sh"}},
		{"perl", []string{"-c", "perl hello.pl"}},
		{"lua", []string{"-c", "lua5.4 hello.lua"}},
		{"tcl", []string{"-c", "tclsh hello.tcl"}},
		{"ruby", []string{"-c", "ruby hello.rb"}},
		{"php", []string{"-c", "php -S 0.0.0.0:$PORT index.php"}},
		{"java", []string{"-c", "java Hello.java"}},
		{"mono", []string{"--stack", "mono", "--protocol", "stdio", "-c", "mcs -out:/tmp/hello.exe Hello.cs && mono /tmp/hello.exe"}},
		{"r", []string{"--protocol", "stdio", "-c", "Rscript hello.R"}},
		{"elixir", []string{"--protocol", "stdio", "-c", "elixir hello.exs"}},
		{"ffmpeg", []string{"--stack", "ffmpeg", "--protocol", "stdio", "-c", "bash hello.sh"}},
		{"debian", []string{"--stack", "debian", "--protocol", "stdio", "-c", "sh hello.sh"}},
	} {
		if only != "" && !strings.Contains(" "+only+" ", " "+tt.stack+" ") {
			continue
		}
		t.Run(tt.stack, func(t *testing.T) {
			n := n.with(t)
			if _, err := n.BuildStack(t.Context(), tt.stack, false, func(client.Progress) {}); err != nil {
				t.Fatal(err)
			}
			dir, err := filepath.Abs("testdata/stacks/" + tt.stack)
			if err != nil {
				t.Fatal(err)
			}
			n.push(tt.stack, dir, tt.flags...)
			resp, err := n.request(t.Context(), "GET", tt.stack, "/", nil)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			if body, err := io.ReadAll(resp.Body); err != nil || resp.StatusCode != 200 || !strings.Contains(string(body), "hello from "+tt.stack) {
				t.Errorf("%d %s, %v", resp.StatusCode, body, err)
			}
		})
	}
}
