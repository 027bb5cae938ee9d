package e2e

import (
	"bytes"
	"os"
	"os/exec"
	"testing"

	"github.com/mayfly-run/mayfly"
	client "github.com/mayfly-run/mayfly/sdk/go"
)

// startForSDK is a node with the functions that the tests of the SDKs name.
// The function inside is a handler that uses the SDK that it was given.
func startForSDK(t *testing.T, inside map[string]string, handler string) *node {
	n := start(t)
	n.shell("cat", "cat", nil)
	n.shell("fails", "echo oops >&2; exit 3", nil)
	n.shell("slow", "sleep 1000", nil)
	n.deploy(mayfly.Workload{Name: "web"})
	digest, err := n.PutCode(t.Context(), bytes.NewReader(tarOf(t, inside)))
	if err != nil {
		t.Fatal(err)
	}
	w := mayfly.Workload{Name: "inside", Stack: "host", Code: digest, Protocol: mayfly.Handler, Handler: handler}
	if _, err := n.Deploy(t.Context(), w, "", func(client.Progress) {}); err != nil {
		t.Fatal(err)
	}
	return n
}

// program runs the tests of an SDK against the node.
func (n *node) program(dir string, argv ...string) {
	n.t.Helper()
	cmd := exec.CommandContext(n.t.Context(), argv[0], argv[1:]...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "MAYFLY_HOST="+n.Host(), "MAYFLY_TEST_IMAGE=app", "PYTHONPATH=.", "PYTHONDONTWRITEBYTECODE=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		n.t.Fatalf("%q: %v\n%s", argv, err, out)
	}
}

func TestPythonSDK(t *testing.T) {
	if _, err := exec.LookPath("python3"); err != nil {
		t.Skip("needs python3: apt-get install python3")
	}
	const code = `import mayfly

def handle(event, context):
    if event["do"] == "fan":
        tasks = mayfly.submit_all({"workload": "cat", "payload": str(i)} for i in range(event["n"]))
        return {"results": [r.decode() for r in mayfly.results(tasks)], "who": mayfly.whoami()}
    if event["do"] == "denied":
        try:
            mayfly.run("app", ["true"])
        except mayfly.MayflyError as e:
            return e.kind.replace("denied", '"denied"')
    mayfly.progress(40, "sorting")
`
	n := startForSDK(t, map[string]string{"main.py": code}, "main.handle")
	n.program("../sdk/python", "python3", "-m", "unittest", "discover", "-s", "tests")
}

func TestJavaScriptSDK(t *testing.T) {
	if _, err := exec.LookPath("node"); err != nil {
		t.Skip("needs node: apt-get install nodejs")
	}
	const code = `import * as mayfly from 'mayfly';

export async function handle(event) {
  if (event.do === 'fan') {
    const tasks = await mayfly.submitAll(Array.from({ length: event.n }, (_, i) => ({ workload: 'cat', payload: String(i) })));
    return { results: (await mayfly.results(tasks)).map(String), who: await mayfly.whoami() };
  }
  if (event.do === 'denied') return mayfly.run('app', ['true']).catch((e) => e.kind);
  await mayfly.progress(40, 'sorting');
}
`
	n := startForSDK(t, map[string]string{"index.mjs": code}, "index.handle")
	n.program("../sdk/js", "node", "--test", "test/node.test.js")
}

// TestSDKsOutlastADaemon: programs that wait for a task at their socket go on
// waiting when the daemon is killed, and get what it returned from the next.
func TestSDKsOutlastADaemon(t *testing.T) {
	n := start(t)
	shared := t.TempDir()
	n.shell("slow", "while [ ! -e /shared/go ]; do sleep 0.02; done; echo done", func(w *mayfly.Workload) {
		w.Mounts = []mayfly.Mount{{Type: "bind", Source: shared, Target: "/shared"}}
	})
	const python = `import mayfly

def handle(event, context):
    task = mayfly.submit("slow")
    mayfly.progress(50, task.id)
    return mayfly.result(task).decode()
`
	const javaScript = `import * as mayfly from 'mayfly';

export async function handle() {
  const task = await mayfly.submit('slow');
  await mayfly.progress(50, task.id);
  return (await mayfly.result(task)).toString();
}
`
	var waiting []mayfly.Task
	for interpreter, code := range map[string][2]string{"python3": {"main.py", python}, "node": {"main.mjs", javaScript}} {
		if _, err := exec.LookPath(interpreter); err != nil {
			t.Logf("without %s", interpreter)
			continue
		}
		n.handler(interpreter, code[0], code[1], "main.handle", mayfly.IsolationRun)
		waiting = append(waiting, n.submit(mayfly.Submission{Workload: interpreter}))
	}
	for _, task := range waiting {
		var inner string
		n.untilTask(task.ID, func(t mayfly.Task) bool {
			if t.Progress != nil {
				inner = t.Progress.Message
			}
			return inner != ""
		})
		n.untilTask(inner, func(t mayfly.Task) bool { return t.State == mayfly.TaskRunning })
	}
	n.kill()
	n.up()
	if err := os.WriteFile(shared+"/go", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, task := range waiting {
		done := n.waitTask(task.ID)
		out, err := n.TaskResult(t.Context(), task.ID)
		if err != nil || done.State != mayfly.TaskSucceeded || done.Attempt != 1 || string(out) != "done\n" {
			t.Errorf("%q, %v, %+v", out, err, done)
		}
	}
}
