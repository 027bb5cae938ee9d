package main

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/mayfly-run/mayfly"
)

// What the ways from a folder of code to its first answer are called in the results.
const (
	pushNew    = "mayfly push, a new function"
	pushChange = "mayfly push, one file changed"
	pushSame   = "mayfly push, nothing changed"
	pushNeeds  = "mayfly push, one file changed, with a dependency"
	dockerPush = "docker build and run, one file changed"
	dockerNeed = "docker build and run, one file changed, with a dependency"
)

// pushLanguage is a language that is pushed.
type pushLanguage struct {
	name, stack string
	handler     string            // a file whose %s is what it answers
	handlerText string            // likewise
	program     string            // the same as a program that listens on port 8080, for those who have no handlers
	programText string            // likewise
	needs       map[string]string // files that ask for a dependency, which lies beside them
	use         string            // the line with which either begins that has it
	install     string            // how Docker installs it
	run         []string          // what starts the program
	tools       bool              // what installs the dependency is there
}

func pushLanguages() ([]*pushLanguage, error) {
	wheel, err := pythonWheel()
	if err != nil {
		return nil, err
	}
	packed, err := nodePackage()
	if err != nil {
		return nil, err
	}
	return []*pushLanguage{{
		name: "python", stack: "python",
		handler: "main.py", handlerText: "def handle(event, context):\n    return \"%s\"\n",
		program: "server.py", programText: `import http.server

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"%s")

    def log_message(self, *args):
        pass

http.server.ThreadingHTTPServer(("", 8080), Handler).serve_forever()
`,
		needs: map[string]string{"requirements.txt": "./benchdep-1.0-py3-none-any.whl\n", "benchdep-1.0-py3-none-any.whl": wheel},
		use:   "import benchdep\n", install: "python3 -m pip install --no-index --break-system-packages -r requirements.txt",
		run: []string{"python3", "-u", "server.py"},
	}, {
		name: "node", stack: "node",
		handler: "index.mjs", handlerText: "export function handle(event, context) {\n  return \"%s\";\n}\n",
		program: "server.mjs", programText: "import http from \"node:http\";\nhttp.createServer((request, response) => response.end(\"%s\")).listen(8080);\n",
		needs: map[string]string{
			"package.json": `{"dependencies": {"benchdep": "file:./benchdep-1.0.0.tgz"}}` + "\n", "benchdep-1.0.0.tgz": packed,
		},
		use: "import \"benchdep\";\n", install: "npm install --offline --no-audit --no-fund",
		run: []string{"node", "server.mjs"},
	}}, nil
}

// pythonWheel is the least that pip installs.
func pythonWheel() (string, error) {
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for _, f := range [][2]string{
		{"benchdep/__init__.py", "there = True\n"},
		{"benchdep-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: benchdep\nVersion: 1.0\n"},
		{"benchdep-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nGenerator: bench\nRoot-Is-Purelib: true\nTag: py3-none-any\n"},
		{"benchdep-1.0.dist-info/RECORD", "benchdep/__init__.py,,\nbenchdep-1.0.dist-info/METADATA,,\nbenchdep-1.0.dist-info/WHEEL,,\nbenchdep-1.0.dist-info/RECORD,,\n"},
	} {
		out, err := w.Create(f[0])
		if err != nil {
			return "", err
		}
		if _, err := io.WriteString(out, f[1]); err != nil {
			return "", err
		}
	}
	err := w.Close()
	return b.String(), err
}

// nodePackage is the least that npm installs.
func nodePackage() (string, error) {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	for _, f := range [][2]string{
		{"package/package.json", `{"name": "benchdep", "version": "1.0.0", "main": "index.js"}` + "\n"},
		{"package/index.js", "exports.there = true;\n"},
	} {
		if err := w.WriteHeader(&tar.Header{Name: f[0], Mode: 0o644, Size: int64(len(f[1])), ModTime: time.Unix(0, 0)}); err != nil {
			return "", err
		}
		if _, err := io.WriteString(w, f[1]); err != nil {
			return "", err
		}
	}
	err := errors.Join(w.Close(), z.Close())
	return b.String(), err
}

// pushes times the way from a folder of code to its first answer, in turns: a
// command that a person runs, and one request.
func (b *bench) pushes(ctx context.Context) error {
	d, err := b.up(ctx, "push")
	if err != nil {
		return err
	}
	languages, err := pushLanguages()
	if err != nil {
		return err
	}
	for _, l := range languages {
		if err := b.pushStack(ctx, d, l); err != nil {
			return err
		}
		if there := slices.ContainsFunc(present(), func(p program) bool { return p.name == l.name }); l.stack == "host" && !there {
			continue
		}
		all, err := b.pushWays(ctx, d, l)
		if err != nil {
			return err
		}
		b.say("push: %s", l.name)
		if err := b.rounds(ctx, all, pick(b, 30, 2), 2); err != nil {
			return fmt.Errorf("%s: %w", l.name, err)
		}
		for _, c := range all {
			b.results.Push = append(b.results.Push, LatencyRow{
				Program: l.name, What: c.what, Runs: len(c.times),
				P50: ms(c.times.quantile(0.5)), P99: ms(c.times.quantile(0.99)), Min: ms(c.times.quantile(0)),
			})
		}
	}
	return d.down(ctx)
}

// pushStack has the language's stack built beforehand. Where Debian's packages
// cannot be had, and in the smoke test, it is the machine's own programs.
func (b *bench) pushStack(ctx context.Context, d *daemon, l *pushLanguage) error {
	l.tools = true
	if b.quick {
		l.stack, l.tools = "host", false
		return nil
	}
	b.say("push: stack %s", l.stack)
	if _, err := d.api.BuildStack(ctx, l.stack, false, nil); err != nil {
		if ctx.Err() != nil {
			return err
		}
		b.results.Notes = append(b.results.Notes, fmt.Sprintf("%s was pushed on the stack host: %v", l.name, err))
		l.stack, l.tools = "host", false
	}
	return nil
}

// pushed is a folder of code that becomes another with each push.
type pushed struct {
	dir   string
	file  string
	text  string // of the file
	round int
}

// change writes the file anew, and returns what it answers from now on.
func (p *pushed) change() (string, error) {
	p.round++
	want := fmt.Sprintf("%s %d", answer, p.round)
	return want, os.WriteFile(filepath.Join(p.dir, p.file), fmt.Appendf(nil, p.text, want), 0o644)
}

// pushFolder makes a folder of code.
func (b *bench) pushFolder(name, file, text string, more map[string]string) (*pushed, error) {
	p := &pushed{dir: filepath.Join(b.dir, "push-"+name), file: file, text: text}
	if err := os.Mkdir(p.dir, 0o755); err != nil {
		return nil, err
	}
	for name, content := range more {
		if err := os.WriteFile(filepath.Join(p.dir, name), []byte(content), 0o644); err != nil {
			return nil, err
		}
	}
	_, err := p.change()
	return p, err
}

// pushWays are all ways of one language, each pushed once already.
func (b *bench) pushWays(ctx context.Context, d *daemon, l *pushLanguage) ([]*contender, error) {
	plain, err := b.pushFolder(l.name, l.handler, l.handlerText, nil)
	if err != nil {
		return nil, err
	}
	if err := b.push(ctx, d, l, l.name, plain.dir); err != nil {
		return nil, err
	}
	all := []*contender{{
		what: pushNew,
		once: func(ctx context.Context) error { return b.pushChanged(ctx, d, l, plain, l.name+"-new") },
		settle: func(ctx context.Context) error {
			if err := d.api.DeleteWorkload(ctx, l.name+"-new"); err != nil && mayfly.KindOf(err) != mayfly.NotFound {
				return err
			}
			return d.settle(ctx)
		},
	}, {
		what: pushChange, settle: d.settle,
		once: func(ctx context.Context) error { return b.pushChanged(ctx, d, l, plain, l.name) },
	}, {
		what: pushSame, settle: d.settle,
		once: func(ctx context.Context) error {
			if err := b.push(ctx, d, l, l.name, plain.dir); err != nil {
				return err
			}
			return d.answers(ctx, l.name, fmt.Sprintf("%s %d", answer, plain.round))
		},
	}}
	if l.tools {
		needy, err := b.pushFolder(l.name+"-needs", l.handler, l.use+l.handlerText, l.needs)
		if err != nil {
			return nil, err
		}
		if err := b.push(ctx, d, l, l.name+"-needs", needy.dir); err != nil {
			return nil, err
		}
		all = append(all, &contender{
			what: pushNeeds, slow: true, settle: d.settle,
			once: func(ctx context.Context) error { return b.pushChanged(ctx, d, l, needy, l.name+"-needs") },
		})
	}
	return append(all, b.dockerWays(ctx, d, l)...), nil
}

// push runs the command as a person does.
func (b *bench) push(ctx context.Context, d *daemon, l *pushLanguage, name, dir string) error {
	args := []string{"push", name, dir, "--path", "/" + name}
	if l.stack == "host" {
		args = append(args, "--stack", "host")
	}
	cmd := exec.CommandContext(ctx, b.binary, args...)
	cmd.Env = append(os.Environ(), "MAYFLY_HOST="+d.api.Host())
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("mayfly push: %w: %s", err, lastLine(string(out)))
	}
	return nil
}

// pushChanged changes the file, pushes it, and asks until the answer is the new one.
func (b *bench) pushChanged(ctx context.Context, d *daemon, l *pushLanguage, p *pushed, name string) error {
	want, err := p.change()
	if err != nil {
		return err
	}
	if err := b.push(ctx, d, l, name, p.dir); err != nil {
		return err
	}
	return d.answers(ctx, name, want)
}

// answers asks for a function's path until it says what it shall.
func (d *daemon) answers(ctx context.Context, name, want string) error {
	return asks(ctx, d.web, "http://"+d.http+"/"+name, want)
}

// asks repeats a request until its answer is what is wanted, for a minute at most.
// What listens soon does not do so at once.
func asks(ctx context.Context, web *http.Client, url, want string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		said, err := ask(ctx, web, url)
		if err == nil && strings.Contains(said, want) {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%s says %q, %v, and not %q", url, said, err, want)
		}
		time.Sleep(time.Millisecond)
	}
}

func ask(ctx context.Context, web *http.Client, url string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	resp, err := web.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("status %d: %s", resp.StatusCode, text)
	}
	return string(text), err
}

// judgePush holds the part push against its goals.
func (r *Results) judgePush() {
	for _, l := range r.Push {
		switch l.What {
		case pushNew, pushChange:
			r.atMost(fmt.Sprintf("%s (%s), until its first answer, p99", l.What, l.Program), l.P99, 3000, "ms")
		}
		for own, other := range map[string]string{pushChange: dockerPush, pushNeeds: dockerNeed} {
			if peer := latencyOf(r.Push, l.Program, other); peer != nil && l.What == own {
				r.atMost(fmt.Sprintf("%s (%s), p50: that of %s", own, l.Program, other), l.P50, peer.P50, "ms")
			}
		}
	}
}
