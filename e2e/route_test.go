package e2e

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/mayfly-run/mayfly"
)

// TestRoutesToAService: requests reach its instances while these come and go, and
// none is lost; whatever HTTP has passes.
func TestRoutesToAService(t *testing.T) {
	n := start(t)
	routed := func(env string) mayfly.Workload {
		w := web(2, mayfly.Update{})
		w.Env = map[string]string{"V": env}
		w.Routes = []mayfly.Route{{Host: "web.test", Path: "/"}}
		return w
	}
	n.serve(routed("1"))
	n.settled("web", mayfly.ServiceRunning, 1, 2)

	t.Run("what HTTP has", func(t *testing.T) {
		n := n.with(t)
		n.streams("web")
		n.upgrades("web")
		resp, err := n.request(t.Context(), "GET", "web", "/ticks", nil)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		events := bufio.NewReader(resp.Body)
		for _, want := range []string{"data: 0\n", "\n", "data: 1\n"} {
			if line, err := events.ReadString('\n'); line != want {
				t.Errorf("%q, %v, and not %q", line, err, want)
			}
		}
		if status, body, _ := n.get("web", "/headers"); status != 200 || !strings.Contains(body, "X-Forwarded-For: 127.0.0.1\r\n") || !strings.Contains(body, "X-Forwarded-Host: web.test\r\n") {
			t.Errorf("%d %s", status, body)
		}
	})
	t.Run("both instances", func(t *testing.T) {
		n := n.with(t)
		seen := map[string]bool{}
		n.until("both have answered", func() bool {
			_, host, _ := n.get("web", "/hostname")
			seen[host] = true
			return len(seen) == 2
		})
	})
	t.Run("a deploy and a restart lose none", func(t *testing.T) {
		n := n.with(t)
		ctx, stop := context.WithCancel(t.Context())
		var all sync.WaitGroup
		var done, failed atomic.Int64
		ask := func(path string) {
			resp, err := n.request(t.Context(), "GET", "web", path, nil)
			if err == nil {
				_, err = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
			}
			done.Add(1)
			if err != nil || resp.StatusCode != http.StatusOK {
				failed.Add(1)
				t.Errorf("%s: %v, %v", path, resp, err)
			}
		}
		for range 4 {
			all.Go(func() {
				for ctx.Err() == nil && failed.Load() < 10 {
					ask("/hostname")
				}
			})
		}
		all.Go(func() { ask("/sleep?for=2s") }) // is under way when its instance is to go
		n.serve(routed("2"))
		n.restarted(n.settled("web", mayfly.ServiceRunning, 2, 2))
		stop()
		all.Wait()
		t.Logf("%d requests, of which %d failed", done.Load(), failed.Load())
	})
	t.Run("one by map-route goes with it", func(t *testing.T) {
		n := n.with(t)
		if _, err := n.MapRoute(t.Context(), "web", mayfly.Route{Host: "other.test", Path: "/front", Strip: true}); err != nil {
			t.Fatal(err)
		}
		if status, body, _ := n.get("other", "/front/headers"); status != 200 || !strings.Contains(body, "X-Forwarded-Prefix: /front\r\n") {
			t.Errorf("%d %s", status, body)
		}
		if err := n.DeleteWorkload(t.Context(), "web"); err != nil {
			t.Fatal(err)
		}
		if status, body, _ := n.get("other", "/front/headers"); status != 404 {
			t.Errorf("%d %s", status, body)
		}
	})
}

// TestReleasesShareARoute: of each ten requests one goes to the release that is
// tried, whichever is active.
func TestReleasesShareARoute(t *testing.T) {
	n := start(t)
	for i := range 2 {
		n.deploy(mayfly.Workload{Name: "shop", Protocol: mayfly.Stdio, Process: mayfly.Process{Command: []string{"echo", fmt.Sprint("release ", i+1)}}})
	}
	for _, r := range []mayfly.Route{{Host: "share.test", Path: "/", Weight: 90, Release: 1}, {Host: "share.test", Path: "/", Weight: 10}} {
		if _, err := n.MapRoute(t.Context(), "shop", r); err != nil {
			t.Fatal(err)
		}
	}
	got := map[string]int{}
	for range 100 {
		_, body, _ := n.get("share", "/")
		got[body]++
	}
	if got["release 1\n"] != 90 || got["release 2\n"] != 10 {
		t.Errorf("%v", got)
	}
}
