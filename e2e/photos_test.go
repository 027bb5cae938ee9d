package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"image"
	"image/color"
	"image/jpeg"
	"image/png"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mayfly-run/mayfly"
	client "github.com/mayfly-run/mayfly/sdk/go"
)

// examples/photos as its README has it: photos are put over HTTP, the volume tells
// of them, and two functions run for each, once. One fails for a PNG that is
// transparent; its delivery ends in the dead letters, with the reason, and the event
// is replayed for the release that can do it.
func TestPhotos(t *testing.T) {
	t.Parallel()
	if _, err := os.Stat("/usr/lib/python3/dist-packages/PIL"); err != nil {
		t.Skip("needs PIL: apt-get install python3-pil")
	}
	n := start(t)
	p := &photos{node: n, code: t.TempDir()}
	if err := os.CopyFS(p.code, os.DirFS("../examples/photos")); err != nil {
		t.Fatal(err)
	}
	p.deploy()
	if status, page := p.ask("GET", "", nil); status != 200 || !strings.Contains(page, "<h1>Photos</h1>") {
		t.Fatalf("the page: %d, %s", status, page)
	}
	grace, err := os.ReadFile("../examples/thumbnail/photo.jpg")
	if err != nil {
		t.Fatal(err)
	}
	all := map[string][]byte{"grace.jpg": grace, "mayfly.jpg": picture(t), "opaque.png": paint(t, 255), "logo.png": paint(t, 100)}
	for name, photo := range all {
		if status, said := p.ask("PUT", "/"+name, photo); status != 201 {
			t.Fatalf("put %s: %d, %s", name, status, said)
		}
	}
	if status, said := p.ask("PUT", "/../logo.png%00", []byte("x")); status == 201 {
		t.Errorf("a name that is none was taken: %s", said)
	}
	for name, photo := range all {
		p.described(name, photo)
	}
	for _, name := range []string{"grace.jpg", "mayfly.jpg", "opaque.png"} {
		p.small(name)
	}

	var dead []mayfly.Task
	n.until("one delivery is buried", func() bool { dead = p.tasks("thumbnail", mayfly.TaskBuried); return len(dead) > 0 })
	last := dead[0].Attempts[len(dead[0].Attempts)-1].Exit
	if len(dead) != 1 || last == nil || !strings.Contains(last.Detail, "cannot write mode RGBA as JPEG") {
		t.Errorf("%d buried: %+v", len(dead), last)
	}
	if status, _ := p.ask("GET", "/thumbs/logo.png.jpg", nil); status != 404 {
		t.Errorf("a thumbnail that could not be made: status %d", status)
	}

	p.fix()
	p.deploy()
	id := n.untilEvent(client.EventFilter{Filter: map[string]string{"subject": "logo.png"}}).Event.ID
	p.mayfly("event", "replay", "--id", id, "--map", "thumbnail")
	p.small("logo.png")
	p.mayfly("task", "dead", "purge", "--workload", "thumbnail")
	for function, want := range map[string]int{"metadata": 4, "thumbnail": 4} {
		var done []mayfly.Task // a picture is there before its task has ended
		n.until(fmt.Sprintf("%s succeeded %d times", function, want), func() bool {
			done = p.tasks(function, mayfly.TaskSucceeded)
			return len(done) >= want
		})
		if len(done) != want {
			t.Errorf("%s succeeded %d times, for %d photos", function, len(done), want)
		}
	}
	if left := p.tasks("", mayfly.TaskBuried); len(left) > 0 {
		t.Errorf("still buried: %+v", left)
	}
}

// photos is the example on a node.
type photos struct {
	*node
	code string
}

// mayfly runs the command.
func (p *photos) mayfly(args ...string) {
	p.t.Helper()
	cmd := exec.CommandContext(p.t.Context(), binary, args...)
	cmd.Env = append(os.Environ(), "MAYFLY_HOST=unix://"+p.dir+"/api.sock")
	if out, err := cmd.CombinedOutput(); err != nil {
		p.t.Fatalf("mayfly %v: %v: %s", args, err, out)
	}
}

func (p *photos) deploy() {
	p.t.Helper()
	p.mayfly("deploy", "-f", p.code)
}

// fix does what the README says.
func (p *photos) fix() {
	p.t.Helper()
	file := filepath.Join(p.code, "thumbnail/main.py")
	code, err := os.ReadFile(file)
	if err != nil {
		p.t.Fatal(err)
	}
	fixed := bytes.Replace(code, []byte("# picture = picture.convert"), []byte("picture = picture.convert"), 1)
	if bytes.Equal(code, fixed) {
		p.t.Fatal("there is nothing to fix")
	}
	if err := os.WriteFile(file, fixed, 0o644); err != nil {
		p.t.Fatal(err)
	}
}

func (p *photos) ask(method, path string, body []byte) (status int, answer string) {
	p.t.Helper()
	req, err := http.NewRequestWithContext(p.t.Context(), method, p.url+"/photos"+path, bytes.NewReader(body))
	if err != nil {
		p.t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		p.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

func (p *photos) tasks(function string, state mayfly.TaskState) []mayfly.Task {
	p.t.Helper()
	list, err := p.ListTasks(p.t.Context(), client.TaskFilter{Workload: function, States: []mayfly.TaskState{state}})
	if err != nil {
		p.t.Fatal(err)
	}
	return list
}

// described waits for what metadata writes of a photo, and looks at it.
func (p *photos) described(name string, photo []byte) {
	p.t.Helper()
	var text string
	p.until("metadata of "+name, func() (ok bool) {
		var status int
		status, text = p.ask("GET", "/metadata/"+name+".json", nil)
		return status == 200
	})
	var facts struct{ Bytes, Width, Height int }
	config, _, err := image.DecodeConfig(bytes.NewReader(photo))
	if bad := json.Unmarshal([]byte(text), &facts); bad != nil || err != nil || facts.Bytes != len(photo) || facts.Width != config.Width || facts.Height != config.Height {
		p.t.Errorf("%s: %v, %v: %s", name, bad, err, text)
	}
}

// small waits for the thumbnail of a photo, and looks at it.
func (p *photos) small(name string) {
	p.t.Helper()
	var text string
	p.until("thumbnail of "+name, func() (ok bool) {
		var status int
		status, text = p.ask("GET", "/thumbs/"+name+".jpg", nil)
		return status == 200
	})
	picture, err := jpeg.Decode(strings.NewReader(text))
	if err != nil || max(picture.Bounds().Dx(), picture.Bounds().Dy()) > 256 {
		p.t.Errorf("the thumbnail of %s: %v", name, err)
	}
}

// paint is a PNG, transparent where alpha is below 255.
func paint(t *testing.T, alpha uint8) []byte {
	t.Helper()
	img := image.NewNRGBA(image.Rect(0, 0, 400, 300))
	for i := range 400 * 300 {
		img.SetNRGBA(i%400, i/400, color.NRGBA{R: uint8(i), G: uint8(i / 400), A: alpha})
	}
	var out bytes.Buffer
	if err := png.Encode(&out, img); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}
