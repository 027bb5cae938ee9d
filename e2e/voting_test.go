package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// examples/voting from its manifest: a thousand people vote at the same time, some
// twice, and each counts once, whether a vote is a task or an event. The page with
// the results follows. Afterwards only the database runs.
func TestVoting(t *testing.T) {
	t.Parallel() // it waits for packages, and then for nobody to ask any more
	if _, err := exec.LookPath("mmdebstrap"); err != nil {
		t.Skip("needs mmdebstrap: apt-get install mmdebstrap")
	}
	v := &voting{node: start(t), t: t}
	for i, by := range []string{"task", "event"} {
		v.deploy("VOTE_BY=" + by)
		shown, end := v.follow()
		const voters = 1000
		v.vote(voters)
		v.await(fmt.Sprintf("the votes of %d voters by %s are counted", voters, by), func() bool {
			count := v.count()
			return count["a"] == (i+1)*voters/4 && count["b"] == (i+1)*voters*3/4
		})
		v.await("the page that follows shows it", func() bool { last := shown(); return last != nil && maps.Equal(last, v.count()) })
		end()
	}
	v.await("only the database runs", func() bool { return slices.Equal(v.running(), []string{"votes-db"}) })
	var got map[string]int
	v.await("the results come back", func() bool { got = v.count(); return got != nil })
	if got["a"] != 500 || got["b"] != 1500 {
		t.Errorf("in the end the count is %v", got)
	}
}

// voting is the example on a node.
type voting struct {
	*node
	t *testing.T
}

func (v *voting) deploy(settings ...string) {
	v.t.Helper()
	cmd := exec.CommandContext(v.t.Context(), binary, "deploy", "-f", "../examples/voting")
	cmd.Env = append(append(os.Environ(), "MAYFLY_HOST=unix://"+v.dir+"/api.sock", "VOTING_IDLE=2s"), settings...)
	if out, err := cmd.CombinedOutput(); err != nil {
		v.t.Fatalf("deploy: %v: %s", err, out[max(0, len(out)-4000):])
	}
}

// await polls for something that has no event of its own.
func (v *voting) await(what string, done func() bool) {
	v.t.Helper()
	for end := time.Now().Add(3 * time.Minute); !done(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			v.t.Fatalf("not within three minutes: %s; the count is %v, %v run", what, v.count(), v.running())
		}
	}
}

// vote has so many people vote, all of them for Cats and three of four of them then for Dogs.
func (v *voting) vote(voters int) {
	v.t.Helper()
	transport := &http.Transport{MaxIdleConnsPerHost: voters}
	defer transport.CloseIdleConnections()
	begun, all := time.Now(), sync.WaitGroup{}
	for i := range voters {
		all.Go(func() {
			jar, _ := cookiejar.New(nil) // no options, no error
			browser := &http.Client{Transport: transport, Jar: jar}
			page := v.url + "/vote"
			v.browse(http.StatusOK, func() (*http.Response, error) { return browser.Get(page) }) // which says who the voter is
			choices := []string{"a", "b"}
			if i%4 == 0 {
				choices = choices[:1]
			}
			for _, choice := range choices {
				v.browse(http.StatusAccepted, func() (*http.Response, error) { return browser.PostForm(page, url.Values{"vote": {choice}}) })
			}
		})
	}
	all.Wait()
	v.t.Logf("%d voters were done after %s", voters, time.Since(begun).Round(time.Millisecond))
}

// browse does what a voter does, again where the answer asks for that: the machine
// is busy.
func (v *voting) browse(want int, do func() (*http.Response, error)) {
	for end := time.Now().Add(patience); ; time.Sleep(100 * time.Millisecond) {
		resp, err := do()
		if err != nil {
			v.t.Errorf("a voter: %v", err)
			return
		}
		text, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		again := slices.Contains([]int{http.StatusTooManyRequests, http.StatusServiceUnavailable, http.StatusGatewayTimeout}, resp.StatusCode)
		if resp.StatusCode == want {
			return
		}
		if !again || time.Now().After(end) {
			v.t.Errorf("a voter: %d %s", resp.StatusCode, text)
			return
		}
	}
}

// count is what the results page says, nil while it cannot be read.
func (v *voting) count() (votes map[string]int) {
	v.t.Helper()
	resp, err := http.Get(v.url + "/results/count")
	if err != nil {
		v.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if resp.StatusCode == http.StatusServiceUnavailable {
		return nil
	}
	if resp.StatusCode != 200 || json.Unmarshal(text, &votes) != nil {
		v.t.Fatalf("the results: %d %s, %v", resp.StatusCode, text, err)
	}
	return votes
}

// follow follows the results as a browser does until end is called. shown is the
// count that the page shows.
func (v *voting) follow() (shown func() map[string]int, end func()) {
	v.t.Helper()
	ctx, cancel := context.WithCancel(v.t.Context())
	req, err := http.NewRequestWithContext(ctx, "GET", v.url+"/results/live", nil)
	if err != nil {
		v.t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		v.t.Fatal(err)
	}
	var mu sync.Mutex
	var last map[string]int
	over := make(chan struct{})
	go func() {
		defer close(over)
		defer resp.Body.Close()
		for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
			text, is := strings.CutPrefix(lines.Text(), "data: ")
			if !is {
				continue
			}
			var votes map[string]int
			if err := json.Unmarshal([]byte(text), &votes); err != nil {
				v.t.Errorf("%q: %v", text, err)
			}
			mu.Lock()
			last = votes
			mu.Unlock()
		}
	}()
	shown = func() map[string]int {
		mu.Lock()
		defer mu.Unlock()
		return last
	}
	return shown, func() { cancel(); <-over }
}

// running is whose containers there are.
func (v *voting) running() (names []string) {
	for _, name := range []string{"vote", "results", "record-vote"} {
		if v.waitingFor(name) > 0 {
			names = append(names, name)
		}
	}
	list, err := v.ListInstances(v.t.Context(), false)
	if err != nil {
		v.t.Fatal(err)
	}
	for _, in := range list {
		names = append(names, in.Workload)
	}
	return names
}
