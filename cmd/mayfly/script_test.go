package main

import (
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"go.uber.org/goleak"

	"github.com/mayfly-run/mayfly"
)

func TestMain(m *testing.M) {
	testscript.Main(checked{m}, map[string]func(){"mayfly": main, "http": httpMain})
}

// checked runs the tests, ends the daemon that they shared, and looks for
// goroutines that are left.
type checked struct{ *testing.M }

func (c checked) Run() int {
	code := c.M.Run()
	errs := []error{shared.close()}
	if code == 0 {
		errs = append(errs, goleak.Find())
	}
	if err := errors.Join(errs...); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

// TestScripts runs testdata/script. A script that needs a node says `daemon`.
// What a script can say beyond the words of testscript:
//
//	daemon [SPACE]            use the daemon that all share, and of that a space of
//	                          its own, so that what others do is not seen; the image
//	                          bb is busybox
//	status CODE PROGRAM...    the program ends with that exit status
//	fails CODE TEXT ARG...    mayfly ARG... ends so, with that one line and nothing else
//	until REGEXP PROGRAM...   run the program until its stdout matches; with ! no more;
//	                          with '' once, whatever becomes of it
//	capture NAME              the last stdout, trimmed, as a variable
//	freeport NAME             a port that nothing listens on, as a variable
//	runid                     the first run of the last stdout, JSON, as RUN
//	xml FILE                  the file is well-formed XML, and its root is svg
//	term                      SIGTERM to the last background program
//	http [-X M] [-H NAME:VALUE] [-d BODY] URL
//	                          a web request: prints status, our headers and body
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                "testdata/script",
		Setup:              setUp,
		Condition:          condition,
		RequireUniqueNames: true,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"daemon": useDaemon, "status": checkStatus, "fails": fails, "until": until,
			"capture": capture, "freeport": freePort, "term": terminate, "runid": runID, "xml": checkXML,
		},
	})
}

func setUp(env *testscript.Env) error {
	here, err := os.Getwd()
	if err != nil {
		return err
	}
	env.Setenv("EXAMPLES", filepath.Join(here, "../../examples"))
	env.Setenv("MAYFLY_HOST", "unix:///nowhere/mayfly.sock")
	// A program with the race detector else sleeps for a second before it ends.
	env.Setenv("GORACE", "atexit_sleep_ms=0")
	return nil
}

func condition(name string) (bool, error) {
	if name == "root" {
		return os.Geteuid() == 0, nil
	}
	_, err := exec.LookPath(name)
	return err == nil, nil
}

func useDaemon(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) > 1 {
		ts.Fatalf("usage: daemon [SPACE]")
	}
	d, err := shared.get()
	ts.Check(err)
	ts.Setenv("MAYFLY_HOST", d.host())
	ts.Setenv("FUNCTIONS", d.functions)
	if len(args) == 1 {
		ts.Setenv("MAYFLY_SPACE", args[0])
	}
}

func exitCode(err error) int {
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return exit.ExitCode()
	}
	return -1
}

func checkStatus(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: status CODE PROGRAM...")
	}
	if got := exitCode(ts.Exec(args[1], args[2:]...)); strconv.Itoa(got) != args[0] {
		ts.Fatalf("exit status %d instead of %s", got, args[0])
	}
}

func fails(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: fails CODE TEXT ARG...")
	}
	checkStatus(ts, false, append([]string{args[0], "mayfly"}, args[2:]...))
	if got := ts.ReadFile("stderr"); got != "mayfly: "+args[1]+"\n" {
		ts.Fatalf("got:  %swant: mayfly: %s", got, args[1])
	}
	if got := ts.ReadFile("stdout"); got != "" {
		ts.Fatalf("there is text on stdout: %s", got)
	}
}

// untilLimit is how long a script waits for something. It is for a machine that
// does much else at the same time, and costs nothing where all is well.
const untilLimit = 2 * time.Minute

func until(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 2 {
		ts.Fatalf("usage: until REGEXP PROGRAM...")
	}
	want := regexp.MustCompile("(?m)" + args[0])
	for limit := time.Now().Add(untilLimit); time.Now().Before(limit); {
		_ = ts.Exec(args[1], args[2:]...) // it may have to come into being first
		if want.MatchString(ts.ReadFile("stdout")) != neg {
			return
		}
	}
	ts.Fatalf("%s did not print %s", args[1], args[0])
}

func capture(ts *testscript.TestScript, _ bool, args []string) {
	ts.Setenv(args[0], strings.TrimSpace(ts.ReadFile("stdout")))
}

// freePort chooses below the ports that the kernel gives to those who ask for
// any, and by chance: what other tests do meanwhile does not take it.
func freePort(ts *testscript.TestScript, _ bool, args []string) {
	for {
		port := strconv.Itoa(15000 + rand.IntN(15000))
		if l, err := net.Listen("tcp", ":"+port); err == nil {
			ts.Check(l.Close())
			ts.Setenv(args[0], port)
			return
		}
	}
}

func terminate(ts *testscript.TestScript, _ bool, _ []string) {
	all := ts.BackgroundCmds()
	ts.Check(all[len(all)-1].Process.Signal(syscall.SIGTERM))
}

func checkXML(ts *testscript.TestScript, _ bool, args []string) {
	in := xml.NewDecoder(strings.NewReader(ts.ReadFile(args[0])))
	root := ""
	for {
		token, err := in.Token()
		if err == io.EOF {
			break
		}
		ts.Check(err)
		if start, ok := token.(xml.StartElement); ok && root == "" {
			root = start.Name.Space + " " + start.Name.Local
		}
	}
	if root != "http://www.w3.org/2000/svg svg" {
		ts.Fatalf("the root of %s is %q", args[0], root)
	}
}

func runID(ts *testscript.TestScript, _ bool, _ []string) {
	var runs []mayfly.Run
	ts.Check(json.Unmarshal([]byte(ts.ReadFile("stdout")), &runs))
	ts.Setenv("RUN", runs[0].ID)
}

// httpMain is the program http of the scripts.
func httpMain() {
	method, body, header := "GET", "", ""
	args := os.Args[1:]
	for len(args) > 1 {
		switch args[0] {
		case "-X":
			method = args[1]
		case "-d":
			method, body = "POST", args[1]
		case "-H":
			header = args[1]
		}
		args = args[2:]
	}
	if err := request(method, args[0], header, body); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func request(method, url, header, body string) error {
	req, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		return err
	}
	if name, value, ok := strings.Cut(header, ":"); ok {
		req.Header.Set(name, strings.TrimSpace(value))
		if name == "Host" {
			req.Host = strings.TrimSpace(value)
		}
	}
	resp, err := (&http.Client{Timeout: time.Minute}).Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	fmt.Println(resp.StatusCode)
	for _, name := range []string{"Content-Type", "X-Mayfly-Run", "Server-Timing", "Allow"} {
		fmt.Printf("%s: %s\n", name, resp.Header.Get(name))
	}
	_, err = io.Copy(os.Stdout, resp.Body)
	return err
}

// shared is the daemon of all scripts. The first that wants it starts it.
var shared sharedDaemon

type sharedDaemon struct {
	once sync.Once
	d    *testDaemon
	err  error
}

func (s *sharedDaemon) get() (*testDaemon, error) {
	s.once.Do(func() {
		if s.d, s.err = newTestDaemon(); s.err == nil {
			s.err = s.d.start()
		}
		if s.err == nil {
			_, s.err = s.d.mayfly("images", "import", s.d.path("busybox"), "--name", "bb")
		}
	})
	return s.d, s.err
}

func (s *sharedDaemon) close() error {
	if s.d == nil {
		return nil
	}
	return s.d.close()
}
