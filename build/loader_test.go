package build

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// handlers is the code of the same handler in each language.
func handlers() map[string][]string {
	return map[string][]string{
		"python": {"main.py", `
import asyncio, sys

class Odd(Exception):
    def __str__(self): raise ValueError("no text")

def handle(event, context):
    if isinstance(event, bytes): return {"bytes": event.decode("latin-1")}
    print("called", flush=False)
    what = event["do"] if isinstance(event, dict) else "echo"
    if what == "none": return None
    if what == "text": return "grüße"
    if what == "bytes": return b"\x00\xff"
    if what == "array": return bytearray(b"ab")
    if what == "list": return [1, None, "x"]
    if what == "number": return 0
    if what == "false": return False
    if what == "context":
        return {"run": context.run, "attempt": context.attempt, "deadline": context.deadline, "workload": context.workload,
                "space": context.space, "cloudevent": context.cloudevent, "remaining": context.remaining()}
    if what == "raise": return fail(event)
    if what == "odd": raise Odd()
    if what == "exit": sys.exit(3)
    if what == "unserialisable": return handle
    if what == "future": return later(event)
    if what == "large": return "x" * 300000
    return event

def fail(event):
    raise ValueError("bad input\nsecond line")

async def later(event):
    await asyncio.sleep(0)
    return "later"

class Context: pass
`},
		"node": {"main.mjs", `
export function handle (event, context) {
  if (Buffer.isBuffer(event)) return { bytes: event.toString('latin1') }
  console.log('called')
  const what = event !== null && typeof event === 'object' && !Array.isArray(event) ? event.do : 'echo'
  if (what === 'none') return undefined
  if (what === 'text') return 'grüße'
  if (what === 'bytes') return Buffer.from([0, 255])
  if (what === 'array') return new Uint8Array([97, 98])
  if (what === 'list') return [1, null, 'x']
  if (what === 'number') return 0
  if (what === 'false') return false
  if (what === 'context') return { ...context, remaining: context.remaining() }
  if (what === 'raise') return fail(event)
  if (what === 'odd') throw { toString () { throw new Error('no text') } }
  if (what === 'unserialisable') return handle
  if (what === 'future') return later(event)
  if (what === 'large') return 'x'.repeat(300000)
  return event
}
function fail (event) {
  throw new RangeError('bad input\nsecond line')
}
async function later (event) {
  await new Promise(setImmediate)
  return 'later'
}
`},
	}
}

// interpreterOf returns the program that runs a language's loader here, and
// its flags.
func interpreterOf(t *testing.T, name string) interpreter {
	t.Helper()
	program := hostInterpreters("/")[name]
	if program == "" {
		t.Skipf("this machine has no %s in /usr", name)
	}
	for _, l := range languages() {
		if l.name == name {
			return interpreter{l, program}
		}
	}
	t.Fatalf("no loader for %s", name)
	return interpreter{}
}

// loader is a loader that runs.
type loader struct {
	url  string
	addr string
	done chan error

	mu     sync.Mutex
	output bytes.Buffer
}

func (l *loader) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.output.Write(p)
}

func (l *loader) said() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.output.String()
}

// command makes the command that runs a handler in dir as its image would.
func loaderCommand(t *testing.T, name, handler, dir string, port int) *exec.Cmd {
	t.Helper()
	i := interpreterOf(t, name)
	i.at = filepath.Join(write(t, filepath.Base(i.at), string(i.loader)), filepath.Base(i.at))
	argv := i.command(handler)
	argv[len(argv)-1] = dir
	cmd := exec.CommandContext(t.Context(), argv[0], argv[1:]...)
	cmd.Env = []string{"PORT=" + strconv.Itoa(port), "PATH=/usr/bin:/bin"}
	cmd.Dir = dir
	return cmd
}

// start runs a loader until the test ends, and waits until it listens.
func start(t *testing.T, name, handler string, files ...string) *loader {
	t.Helper()
	port := freePort(t)
	l := &loader{addr: net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), done: make(chan error, 1)}
	l.url = "http://" + l.addr + "/"
	cmd := loaderCommand(t, name, handler, write(t, files...), port)
	cmd.Stdout, cmd.Stderr = l, l
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { l.done <- cmd.Wait() }()
	t.Cleanup(func() {
		cmd.Process.Kill() // it may have ended
		<-l.done
	})
	// Nothing tells that another process listens but connecting to it.
	for range time.Tick(5 * time.Millisecond) {
		if conn, err := net.Dial("tcp", l.addr); err == nil {
			conn.Close()
			return l
		}
		select {
		case err := <-l.done:
			l.done <- err
			t.Fatalf("loader ended: %v\n%s", err, l.said())
		default:
		}
	}
	return nil
}

// freePort returns a port of loopback that the kernel gives to nobody else until
// the test ends: a socket that does not listen has it, beside which a loader may
// listen, for both allow that (SO_REUSEADDR).
func freePort(t *testing.T) int {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		t.Fatal(err)
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	at, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	return at.(*unix.SockaddrInet4).Port
}

func TestLoaderContract(t *testing.T) {
	type answer struct {
		status int
		kind   string
		body   string
		failed string // X-Mayfly-Error
	}
	const text, jsonKind, bytesKind = "text/plain; charset=utf-8", "application/json", "application/octet-stream"
	ok := func(kind, body string) map[string]answer { return map[string]answer{"": {200, kind, body, ""}} }
	failed := func(python, node string) map[string]answer {
		return map[string]answer{"python": {500, text, python, "1"}, "node": {500, text, node, "1"}}
	}
	do := func(what string) string { return `{"do":"` + what + `"}` }
	tests := []struct {
		name    string
		headers map[string]string
		body    string
		want    map[string]answer // by language, "" for every one
	}{
		{"object", nil, `{"do": "x", "ü": [1, 2.5, null, true]}`, map[string]answer{
			"python": {200, jsonKind, `{"do": "x", "\u00fc": [1, 2.5, null, true]}`, ""}, "node": {200, jsonKind, `{"do":"x","ü":[1,2.5,null,true]}`, ""}}},
		{"number event", nil, `7`, ok(jsonKind, `7`)},
		{"nothing returned", nil, do("none"), map[string]answer{"": {204, "", "", ""}}},
		{"text returned", nil, do("text"), ok(text, "grüße")},
		{"bytes returned", nil, do("bytes"), ok(bytesKind, "\x00\xff")},
		{"array returned", nil, do("array"), ok(bytesKind, "ab")},
		{"list returned", nil, do("list"), map[string]answer{"python": {200, jsonKind, `[1, null, "x"]`, ""}, "node": {200, jsonKind, `[1,null,"x"]`, ""}}},
		{"zero returned", nil, do("number"), ok(jsonKind, "0")},
		{"false returned", nil, do("false"), ok(jsonKind, "false")},
		{"awaited", nil, do("future"), ok(text, "later")},
		{"large", nil, do("large"), ok(text, strings.Repeat("x", 300000))},
		{"no JSON, type unsaid", nil, "plain", ok(jsonKind, `{"bytes": "plain"}`)},
		{"JSON said to be text", map[string]string{"Content-Type": "text/plain"}, `{}`, ok(jsonKind, `{"bytes": "{}"}`)},
		{"JSON said to be a form, as curl -d does", map[string]string{"Content-Type": "application/x-www-form-urlencoded"}, do("text"), ok(text, "grüße")},
		{"a form", map[string]string{"Content-Type": "application/x-www-form-urlencoded"}, "1", ok(jsonKind, `{"bytes": "1"}`)},
		{"a CloudEvent", map[string]string{"Content-Type": "application/cloudevents+json; charset=utf-8"}, do("text"), ok(text, "grüße")},
		{"empty", nil, "", ok(jsonKind, `{"bytes": ""}`)},
		{"not the JSON that it says", map[string]string{"Content-Type": "application/json"}, "{", map[string]answer{
			"python": {400, text, "the body is not JSON: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)", ""},
			"node":   {400, text, "", ""}}},
		{"raises", nil, do("raise"), failed("ValueError: bad input", "RangeError: bad input")},
		{"raises what has no text", nil, do("odd"), failed("main.Odd", "Error")},
		{"unserialisable", nil, do("unserialisable"), failed("TypeError: Object of type function is not JSON serializable",
			"TypeError: a function cannot be returned as JSON")},
		{"context", map[string]string{"X-Mayfly-Run": "r1", "X-Mayfly-Attempt": "2", "X-Mayfly-Deadline": "1500", "X-Mayfly-Workload": "w", "X-Mayfly-Space": "s"},
			do("context"), map[string]answer{
				"python": {200, jsonKind, `{"run": "r1", "attempt": 2, "deadline": 1.5, "workload": "w", "space": "s", "cloudevent": null, "remaining": 0.0}`, ""},
				"node":   {200, jsonKind, `{"run":"r1","attempt":2,"deadline":1500,"workload":"w","space":"s","cloudevent":null,"remaining":0}`, ""}}},
		{"context of nothing", nil, do("context"), map[string]answer{
			"python": {200, jsonKind, `{"run": "", "attempt": 1, "deadline": null, "workload": "", "space": "", "cloudevent": null, "remaining": null}`, ""},
			"node":   {200, jsonKind, `{"run":"","attempt":1,"deadline":null,"workload":"","space":"","cloudevent":null,"remaining":null}`, ""}}},
		{"context that is wrong", map[string]string{"X-Mayfly-Attempt": "two"}, do("context"),
			map[string]answer{"": {400, text, "an X-Mayfly header is not a number", ""}}},
	}
	for language, files := range handlers() {
		t.Run(language, func(t *testing.T) {
			l := start(t, language, "main.handle", files...)
			client := &http.Client{Transport: &http.Transport{}}
			defer client.CloseIdleConnections()
			for _, tt := range tests {
				want, has := tt.want[language]
				if !has {
					want = tt.want[""]
				}
				if language == "node" { // its JSON has no spaces
					want.body = strings.Replace(want.body, `{"bytes": "`, `{"bytes":"`, 1)
				}
				for _, chunked := range []bool{false, true} {
					body := io.Reader(strings.NewReader(tt.body))
					if chunked {
						body = io.MultiReader(body) // of no length that net/http knows
					}
					req, err := http.NewRequestWithContext(t.Context(), "POST", l.url, body)
					if err != nil {
						t.Fatal(err)
					}
					for k, v := range tt.headers {
						req.Header.Set(k, v)
					}
					resp, err := client.Do(req)
					if err != nil {
						t.Fatalf("%s: %v\n%s", tt.name, err, l.said())
					}
					data, err := io.ReadAll(resp.Body)
					resp.Body.Close()
					if err != nil {
						t.Fatal(err)
					}
					got := answer{resp.StatusCode, resp.Header.Get("Content-Type"), string(data), resp.Header.Get("X-Mayfly-Error")}
					if want.status == 400 && want.body == "" {
						got.body = "" // the engine's own words
					}
					if diff := cmp.Diff(want, got, cmp.AllowUnexported(answer{})); diff != "" {
						t.Errorf("%s, chunked %v (-want +got):\n%s", tt.name, chunked, diff)
					}
				}
			}
			if said := l.said(); !strings.Contains(said, "called\n") || !strings.Contains(said, "bad input\nsecond line") || !strings.Contains(said, "fail") {
				t.Errorf("output and tracebacks are missing from: %s", said)
			}
			if said := l.said(); strings.Contains(said, "loader.py\"") || strings.Contains(said, "loader.mjs") {
				t.Errorf("our own frames are in a traceback: %s", said)
			}
		})
	}
}

// Each way in which code cannot be loaded ends the process with 1 and says why.
func TestLoaderRefuses(t *testing.T) {
	tests := []struct {
		name, language, handler string
		files                   []string
		want                    string // the output has it
	}{
		{"no file", "python", "main.handle", nil, "mayfly: handler main.handle: there is no main.py in DIR\n"},
		{"no function", "python", "main.handle", []string{"main.py", "x = 1"}, "mayfly: handler main.handle: main.py has no function handle\n"},
		{"no handler", "python", "main", []string{"main.py", ""}, "mayfly: handler 'main' is not FILE.FUNCTION, as in main.handle\n"},
		{"import fails", "python", "main.handle", []string{"main.py", "import nothing_of_that_name"},
			"Traceback (most recent call last):\n  File \"DIR/main.py\", line 1, in <module>\n    import nothing_of_that_name\nModuleNotFoundError: No module named 'nothing_of_that_name'\n"},
		{"syntax", "python", "main.handle", []string{"main.py", "def ("}, "SyntaxError"},
		{"exits", "python", "main.handle", []string{"main.py", "raise SystemExit(7)"}, "SystemExit: 7\n"},
		{"no file", "node", "main.handle", nil, "mayfly: handler main.handle: there is no main.mjs or main.js in DIR\n"},
		{"no function", "node", "main.handle", []string{"main.mjs", "export const x = 1"}, "mayfly: handler main.handle: DIR/main.mjs exports no function handle\n"},
		{"no handler", "node", "main", []string{"main.mjs", ""}, "mayfly: handler \"main\" is not FILE.FUNCTION, as in index.handle\n"},
		{"import fails", "node", "main.handle", []string{"main.mjs", "import 'nothing-of-that-name'"}, "Cannot find package 'nothing-of-that-name'"},
		{"syntax", "node", "main.handle", []string{"main.mjs", "function ("}, "SyntaxError"},
	}
	for _, tt := range tests {
		t.Run(tt.language+" "+tt.name, func(t *testing.T) {
			dir := write(t, tt.files...)
			out, err := loaderCommand(t, tt.language, tt.handler, dir, freePort(t)).CombinedOutput()
			got := strings.ReplaceAll(string(out), dir, "DIR")
			if exit, ok := err.(*exec.ExitError); !ok || exit.ExitCode() != 1 {
				t.Errorf("ended with %v", err)
			}
			if !strings.Contains(got, tt.want) {
				t.Errorf("\n got %s\nwant %s", got, tt.want)
			}
		})
	}
}

// What a handler may be besides a function in a plain file.
func TestLoaderForms(t *testing.T) {
	tests := []struct {
		name, language, handler string
		files                   []string
	}{
		{"coroutine", "python", "main.handle", []string{"main.py", "async def handle(event, context): return 'ok'"}},
		{"class", "python", "main.handle", []string{"main.py", "class H:\n  def __call__(self, event, context): return 'ok'\nhandle = H()"}},
		{"in a folder", "python", "src/app.handle", []string{"src/app.py", "from src.other import say\ndef handle(e, c): return say()", "src/other.py", "def say(): return 'ok'"}},
		{"package", "python", "app.handle", []string{"app/__init__.py", "from .other import say\ndef handle(e, c): return say()", "app/other.py", "def say(): return 'ok'"}},
		{"module beside", "python", "main.handle", []string{"main.py", "import helper\ndef handle(e, c): return helper.say()", "helper.py", "def say(): return 'ok'"}},
		{"CommonJS", "node", "main.handle", []string{"main.cjs", "exports.handle = () => 'ok'"}},
		{"js", "node", "main.handle", []string{"main.js", "module.exports = { handle: async () => 'ok' }"}},
		{"js module", "node", "main.handle", []string{"main.js", "export const handle = () => 'ok'", "package.json", `{"type":"module"}`}},
		{"default", "node", "main.handle", []string{"main.mjs", "export default { handle () { return 'ok' } }"}},
		{"in a folder", "node", "src/app.handle", []string{"src/app.mjs", "export { handle } from './other.mjs'", "src/other.mjs", "export const handle = () => 'ok'"}},
	}
	for _, tt := range tests {
		t.Run(tt.language+" "+tt.name, func(t *testing.T) {
			l := start(t, tt.language, tt.handler, tt.files...)
			if got := exchange(t, l, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"); !strings.HasSuffix(got, "\r\n\r\nok") {
				t.Errorf("got %q\n%s", got, l.said())
			}
		})
	}
}

// exchange sends bytes as they are and returns all that comes back.
func exchange(t *testing.T, l *loader, text string) string {
	t.Helper()
	conn, err := net.Dial("tcp", l.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(bufio.NewReader(conn))
	if err != nil && len(data) == 0 {
		t.Fatal(err)
	}
	return string(data)
}

// Python's loader reads HTTP itself. What is not HTTP gets an answer or an end,
// and the next connection is served.
func TestPythonLoaderWire(t *testing.T) {
	l := start(t, "python", "main.handle", "main.py",
		"def handle(event, context): return event if isinstance(event, bytes) else b'json'")
	head := "POST / HTTP/1.1\r\nConnection: close\r\n"
	tests := []struct{ name, send, want string }{ // want: the status, then the end of the body
		{"body", head + "Content-Length: 3\r\n\r\n<a>", "200 <a>"},
		{"header names in any case", head + "cOnTeNt-LeNgTh: 3\r\n\r\n<a>", "200 <a>"},
		{"chunks", head + "Transfer-Encoding: chunked\r\n\r\n2;x=y\r\n<a\r\n1\r\n>\r\n0\r\nTrailer: x\r\n\r\n", "200 <a>"},
		{"two requests at once", "POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\n<a>" + head + "Content-Length: 3\r\n\r\n<b>", "200 <b>"},
		{"HTTP/1.0", "GET / HTTP/1.0\r\n\r\n", "200 "},
		{"HEAD", "HEAD / HTTP/1.1\r\nConnection: close\r\n\r\n", "200 "},
		{"no HTTP", "hello\r\n\r\n", "400 the request line is not HTTP/1.1"},
		{"bad header", head + "nothing\r\n\r\n", "400 a header is not NAME: VALUE"},
		{"folded header", head + "A: b\r\n c\r\n\r\n", "400 a header is not NAME: VALUE"},
		{"bad length", head + "Content-Length: -1\r\n\r\n", "400 Content-Length is not a number"},
		{"bad chunk", head + "Transfer-Encoding: chunked\r\n\r\n-1\r\n", "400 a chunk's size is not a number"},
		{"long chunk", head + "Transfer-Encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n", "400 a chunk is longer than it says"},
		{"large head", head + "A: " + strings.Repeat("x", 70000), "431 the headers are too large"},
	}
	for _, tt := range tests {
		got := exchange(t, l, tt.send)
		status, _, _ := strings.Cut(strings.TrimPrefix(got, "HTTP/1.1 "), " ")
		body := got[strings.LastIndex(got, "\r\n\r\n")+4:]
		if status+" "+body != tt.want {
			t.Errorf("%s: got %q, want %s", tt.name, got, tt.want)
		}
	}
	t.Run("continue", func(t *testing.T) {
		conn, err := net.Dial("tcp", l.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		r := bufio.NewReader(conn)
		io.WriteString(conn, head+"Content-Length: 3\r\nExpect: 100-continue\r\n\r\n")
		if line, err := r.ReadString('\n'); err != nil || line != "HTTP/1.1 100 Continue\r\n" {
			t.Fatalf("%q, %v", line, err)
		}
		io.WriteString(conn, "<a>")
		if data, err := io.ReadAll(r); err != nil || !strings.HasSuffix(string(data), "\r\n\r\n<a>") {
			t.Errorf("%q, %v", data, err)
		}
	})
	t.Run("cut short", func(t *testing.T) {
		for _, text := range []string{"", "POST", head + "Content-Length: 10\r\n\r\nabc"} {
			conn, err := net.Dial("tcp", l.addr)
			if err != nil {
				t.Fatal(err)
			}
			io.WriteString(conn, text)
			conn.Close()
		}
		if got := exchange(t, l, head+"\r\n"); !strings.HasPrefix(got, "HTTP/1.1 200") {
			t.Errorf("the next request got %q", got)
		}
	})
	t.Run("at once", func(t *testing.T) { // an idle connection blocks nobody
		idle, err := net.Dial("tcp", l.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer idle.Close()
		if got := exchange(t, l, head+"\r\n"); !strings.HasPrefix(got, "HTTP/1.1 200") {
			t.Errorf("got %q", got)
		}
	})
}
