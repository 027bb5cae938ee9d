package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"image"
	"image/color"
	"image/jpeg"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/mayfly-run/mayfly"
	client "github.com/mayfly-run/mayfly/sdk/go"
)

// examples/blog from its manifest: WordPress is installed and used over HTTP, its
// database is killed, and it is back by itself with nothing lost when the database
// is ready elsewhere. The replica has it all, and follows.
func TestBlog(t *testing.T) {
	t.Parallel() // it waits for packages and for databases, the kills for their moments
	if _, err := exec.LookPath("mmdebstrap"); err != nil {
		t.Skip("needs mmdebstrap: apt-get install mmdebstrap")
	}
	n := start(t)
	b := &blog{node: n, t: t, port: freePort(t)}
	begun := time.Now()
	b.deploy()
	t.Logf("deployed after %s, images built", time.Since(begun).Round(time.Second))
	b.site = openWordpress(t, "http://127.0.0.1:"+b.port)
	b.await("the blog answers", func() bool { status, _, err := b.site.try("GET", "/", "", nil); return err == nil && status < 400 })
	t.Logf("it answers after %s", time.Since(begun).Round(time.Second))

	b.site.install("A blog of mayflies")
	b.site.login()
	post := b.site.publish("They live a day", "And see each other.")
	jpeg := picture(t)
	path := b.site.upload("mayfly.jpg", jpeg)
	b.holds(post, "And see each other.", path, jpeg)
	b.await("the replica has the post", func() bool { return b.inReplica("And see each other.") })

	old, was := b.one("db"), b.told("web")
	b.killDatabase(old, was)
	if now := b.one("db"); now.ID == old.ID {
		t.Fatal("the database was not killed")
	}
	b.holds(post, "And see each other.", path, jpeg)
	second := b.site.publish("The day after", "Others came.")
	b.holds(second, "Others came.", path, jpeg)
	b.await("the replica has the second post", func() bool { return b.inReplica("Others came.") })
	if got, want := b.followed(), b.told("replica"); got != want {
		t.Errorf("the replica follows %s, and was told %s", got, want)
	}

	begun, old = time.Now(), b.one("web")
	if said := b.deploy(); b.one("web").ID != old.ID || strings.Contains(said, "building stack") {
		t.Errorf("a deploy with nothing changed says %s", said)
	}
	t.Logf("a deploy with nothing changed took %s", time.Since(begun).Round(time.Millisecond))
}

// blog is the example on a node.
type blog struct {
	*node
	t    *testing.T
	port string // of the host
	site *wordpress
}

// deploy does what the README says, and returns what it printed.
func (b *blog) deploy() string {
	b.t.Helper()
	cmd := exec.CommandContext(b.t.Context(), binary, "deploy", "-f", "../examples/blog")
	cmd.Env = append(os.Environ(), "MAYFLY_HOST=unix://"+b.dir+"/api.sock", "BLOG_PORT="+b.port)
	out, err := cmd.CombinedOutput()
	if err != nil {
		b.t.Fatalf("deploy: %v: %s", err, out[max(0, len(out)-4000):])
	}
	return string(out)
}

// await polls for something that has no event of its own; longer than until, as
// images are unpacked and databases made.
func (b *blog) await(what string, done func() bool) {
	b.t.Helper()
	for end := time.Now().Add(3 * time.Minute); !done(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			for _, service := range []string{"db", "web", "replica"} {
				for _, in := range b.instancesOf(service) {
					b.t.Logf("%s wrote:\n%.6000s", in.Name, b.execLog(in))
				}
			}
			b.t.Fatalf("%s: not within three minutes", what)
		}
	}
}

// one is the only running container of a service.
func (b *blog) one(service string) mayfly.Instance {
	b.t.Helper()
	var all []mayfly.Instance
	b.await("one container of "+service, func() bool { all = b.instancesOf(service); return len(all) == 1 })
	return all[0]
}

// holds reads a post and a picture back.
func (b *blog) holds(post int, text, path string, jpeg []byte) {
	b.t.Helper()
	if page := b.site.get(fmt.Sprintf("/?p=%d", post)); !strings.Contains(page, text) {
		b.t.Errorf("the page of the post has no %q: %.2000s", text, page)
	}
	if got := b.site.get(path); got != string(jpeg) {
		b.t.Errorf("the picture is another one, of %d instead of %d bytes", len(got), len(jpeg))
	}
}

// sandbox is what the node has on disk of a service's container.
func (b *blog) sandbox(in mayfly.Instance) string {
	return filepath.Join(b.dir, "data", "sandboxes", in.ID)
}

// shown is what a service's container sees as /run/mayfly.
func (b *blog) shown(in mayfly.Instance) string {
	return filepath.Join(b.dir, "data", "volatile", ".run", in.ID)
}

// told is the address of the database that a service was told, as HOST:PORT;
// empty if that there is none.
func (b *blog) told(service string) string {
	b.t.Helper()
	data, err := os.ReadFile(b.shown(b.one(service)) + "/endpoints.json")
	if err != nil {
		b.t.Fatal(err)
	}
	var sets map[string][]struct {
		Host string
		Port int
	}
	if err := json.Unmarshal(data, &sets); err != nil {
		b.t.Fatal(err)
	}
	if len(sets["mysql"]) == 0 {
		return ""
	}
	return net.JoinHostPort(sets["mysql"][0].Host, strconv.Itoa(sets["mysql"][0].Port))
}

// killDatabase kills the database's container, and sees that WordPress is told, in
// this order, that there is none and that there is one elsewhere, and is back.
func (b *blog) killDatabase(old mayfly.Instance, was string) {
	b.t.Helper()
	web := b.one("web")
	pid, err := os.ReadFile(b.sandbox(old) + "/pid")
	if err != nil {
		b.t.Fatal(err)
	}
	number, err := strconv.Atoi(strings.Fields(string(pid))[0])
	if err != nil {
		b.t.Fatal(err)
	}
	before, file := len(b.rewired(web)), b.shown(web)+"/endpoints.json"
	stale := written(b.t, file)
	killed := time.Now()
	if err := syscall.Kill(number, syscall.SIGKILL); err != nil {
		b.t.Fatal(err)
	}
	for written(b.t, file).Equal(stale) { // goes on until the test's deadline
		time.Sleep(100 * time.Microsecond)
	}
	b.t.Logf("WordPress's files were replaced %s after the kill (to the clock's tick)", written(b.t, file).Sub(killed).Round(time.Millisecond))
	b.await("WordPress is told twice", func() bool { return len(b.rewired(web)) >= before+2 })
	news := b.rewired(web)[before:]
	b.t.Logf("rewire ran %s after the kill, and %s after it for the new address", news[0].at.Sub(killed).Round(time.Microsecond), news[1].at.Sub(killed).Round(time.Millisecond))
	if news[0].address != "no" || news[1].address == was || news[1].address == "no" {
		b.t.Errorf("at first the database was at %s; WordPress was then told %+v", was, news)
	}
	if !killed.Before(news[0].at) || !news[0].at.Before(news[1].at) {
		b.t.Errorf("killed at %s, told %+v", killed, news)
	}
	b.await("the blog is back", func() bool { status, _, err := b.site.try("GET", "/", "", nil); return err == nil && status == 200 })
	b.t.Logf("the blog is back %s after the kill", time.Since(killed).Round(time.Millisecond))
	if again := b.one("web"); again.ID != web.ID {
		b.t.Errorf("WordPress was started anew")
	}
	b.tells(killed)
}

// tells waits until what happened since the kill is on record, for people who ask
// why. The record is written beside what it tells of, so nothing is said of its order.
func (b *blog) tells(killed time.Time) {
	b.t.Helper()
	var list []mayfly.News
	for _, want := range []string{"db service.crashed", "web service.told", "db service.ready"} {
		b.await("the news have "+want, func() bool {
			var err error
			if list, err = b.ListNews(b.t.Context(), client.NewsFilter{Since: killed}); err != nil {
				b.t.Fatal(err)
			}
			return slices.ContainsFunc(list, func(n mayfly.News) bool { return n.Subject+" "+n.Type == want })
		})
	}
	for _, n := range list {
		b.t.Logf("%9s %s %s: %s", n.Time.Sub(killed).Round(100*time.Microsecond), n.Subject, n.Type, n.Text)
	}
}

func written(t *testing.T, file string) time.Time {
	t.Helper()
	info, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	return info.ModTime()
}

// rewiring is a run of web/rewire.
type rewiring struct {
	at      time.Time
	address string // "no" where there was none
}

var rewireLine = regexp.MustCompile(`(?m)^(\d+)\.(\d+) rewire: the database is at (\S+)`)

// rewired reads what rewire wrote down in the container.
func (b *blog) rewired(web mayfly.Instance) (all []rewiring) {
	b.t.Helper()
	data, err := os.ReadFile(b.sandbox(web) + "/upper/tmp/rewire.log")
	if err != nil {
		b.t.Fatal(err)
	}
	for _, m := range rewireLine.FindAllStringSubmatch(string(data), -1) {
		sec, _ := strconv.ParseInt(m[1], 10, 64) // digits
		nsec, _ := strconv.ParseInt(m[2], 10, 64)
		all = append(all, rewiring{time.Unix(sec, nsec), m[3]})
	}
	return all
}

// query asks the replica.
func (b *blog) query(sql string) (string, error) {
	b.t.Helper()
	cmd := exec.CommandContext(b.t.Context(), binary, "exec", "replica", "mariadb", "--defaults-file=/app/my.cnf", "--batch", "--execute", sql)
	cmd.Env = append(os.Environ(), "MAYFLY_HOST=unix://"+b.dir+"/api.sock")
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (b *blog) inReplica(text string) bool {
	out, err := b.query("SELECT post_content FROM wordpress.wp_posts WHERE post_status = 'publish'")
	return err == nil && strings.Contains(out, text)
}

// followed is the database that the replica follows.
func (b *blog) followed() string {
	b.t.Helper()
	out, err := b.query(`SHOW SLAVE STATUS\G`)
	if err != nil {
		b.t.Fatalf("%v: %s", err, out)
	}
	field := func(name string) string {
		_, after, _ := strings.Cut(out, name+": ")
		value, _, _ := strings.Cut(after, "\n")
		return value
	}
	if field("Slave_IO_Running") != "Yes" || field("Slave_SQL_Running") != "Yes" {
		b.t.Errorf("the replica does not follow: %s", out)
	}
	return net.JoinHostPort(field("Master_Host"), field("Master_Port"))
}

// picture is one that a person would upload.
func picture(t *testing.T) []byte {
	img := image.NewRGBA(image.Rect(0, 0, 640, 480))
	for x := range 640 {
		for y := range 480 {
			img.Set(x, y, color.RGBA{uint8(x), uint8(y), uint8(x * y), 255})
		}
	}
	var data bytes.Buffer
	if err := jpeg.Encode(&data, img, nil); err != nil {
		t.Fatal(err)
	}
	return data.Bytes()
}
