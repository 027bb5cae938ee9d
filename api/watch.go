package api

import (
	"context"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"net/http"
	"net/url"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/discovery"
	client "github.com/mayfly-run/mayfly/sdk/go"
)

// maxWait is the longest that a poll may wait.
const maxWait = 5 * time.Minute

const contentEvents = "text/event-stream"

// watch is what somebody wants to be told of.
type watch struct {
	space string
	want  mayfly.Require
	seen  string
	wait  time.Duration
}

// queryOf reads a query of which every parameter is known.
func queryOf(req *http.Request, known ...string) (url.Values, error) {
	query, err := url.ParseQuery(req.URL.RawQuery)
	if err != nil {
		return nil, mayfly.Errorf(mayfly.Invalid, "the query cannot be read: %w", err)
	}
	for name, values := range query {
		switch {
		case !strings.Contains(" space service role port tag "+strings.Join(known, " ")+" ", " "+name+" "):
			return nil, mayfly.Errorf(mayfly.Invalid, "query.%s: unexpected query parameter", name)
		case len(values) > 1 && name != "tag":
			return nil, mayfly.Errorf(mayfly.Invalid, "query.%s: it is there more than once", name)
		}
	}
	if query.Get("space") == "" {
		query.Set("space", mayfly.DefaultSpace)
	}
	return query, mayfly.CheckName("space", query.Get("space"))
}

// wanted is what a query requires.
func wanted(query url.Values) (mayfly.Require, error) {
	in := InTags{Service: query.Get("service"), Role: query.Get("role"), Port: query.Get("port"), Tag: query["tag"]}
	want, err := in.require()
	if err == nil && in.Service == "" && in.Role == "" {
		err = mayfly.Errorf(mayfly.Invalid, "neither a service nor a role is named").WithHint("add ?service=NAME")
	}
	return want, err
}

func parseWatch(req *http.Request) (w watch, err error) {
	query, err := queryOf(req, "seen", "wait")
	if err != nil {
		return w, err
	}
	w.space, w.seen = query.Get("space"), query.Get("seen")
	if w.want, err = wanted(query); err != nil {
		return w, err
	}
	if text := query.Get("wait"); text != "" {
		if w.wait, err = parseDuration("query.wait:", text); err != nil {
			return w, err
		}
		w.wait = min(w.wait, maxWait)
	}
	return w, nil
}

// watchEndpoints registers the watch.
func (r *router) watchEndpoints() {
	param := func(name, text string) *huma.Param {
		return &huma.Param{Name: name, In: "query", Schema: &huma.Schema{Type: huma.TypeString}, Description: text}
	}
	params := []*huma.Param{
		param("space", "the space"), param("service", "of this service"), param("role", "of this role; one of service and role is named"),
		param("port", "of this name of a port"),
		{Name: "tag", In: "query", Schema: &huma.Schema{Type: huma.TypeArray, Items: &huma.Schema{Type: huma.TypeString}}, Description: "KEY=VALUE or KEY~PATTERN"},
		param("seen", "the revision that is known: there is no answer until there is another one, or wait has passed"),
		param("wait", "as in 30s, at most 5m"),
		{Name: "Accept", In: "header", Schema: &huma.Schema{Type: huma.TypeString}, Description: "text/event-stream for a stream"},
	}
	o := operation{id: "watch-endpoints", route: "GET /v1/watch", summary: "Be told of the endpoints of a service or a role",
		detail: "A long poll: answered at once, or with seen and wait when the endpoints are others. With Accept: text/event-stream a stream of events " +
			"named endpoints, whose data is the same answer: one at once, and one after each change."}
	set := r.schema(reflect.TypeFor[client.EndpointSet]())
	r.raw(o, []string{http.MethodGet}, params, map[string]*huma.Response{"200": {
		Description: "all endpoints that match, in a stable order",
		Content:     map[string]*huma.MediaType{"application/json": {Schema: set}, contentEvents: {Schema: &huma.Schema{Type: huma.TypeString}}},
	}}, func(w http.ResponseWriter, req *http.Request) {
		if err := r.serveWatch(w, req); err != nil {
			r.fail(w, req, err)
		}
	})
}

// serveWatch returns an error before anything was answered.
func (r *router) serveWatch(w http.ResponseWriter, req *http.Request) error {
	if err := need(r.services.Endpoints, "endpoints"); err != nil {
		return err
	}
	in, err := parseWatch(req)
	if err != nil {
		return err
	}
	sub, err := r.services.Endpoints.Watch(in.space, in.want)
	if err != nil {
		return err
	}
	defer sub.Close()
	ctx, stop := r.untilClosing(req.Context())
	defer stop()
	if strings.Contains(req.Header.Get("Accept"), contentEvents) {
		if in.seen == "" {
			in.seen = req.Header.Get("Last-Event-ID")
		}
		streamEvents(ctx, w, sub, in.seen)
		return nil
	}
	timer := time.NewTimer(in.wait)
	defer timer.Stop()
	for {
		set := setOf(sub)
		if set.Revision != in.seen || in.wait <= 0 {
			writeJSON(w, http.StatusOK, set)
			return nil
		}
		select {
		case <-sub.C():
		case <-timer.C:
			in.wait = 0
		case <-ctx.Done():
			return because(ctx, ctx.Err())
		}
	}
}

// streamEvents sends an event now, unless it was seen, and after each change.
func streamEvents(ctx context.Context, w http.ResponseWriter, sub *discovery.Subscription, seen string) {
	w.Header().Set("Content-Type", contentEvents)
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusOK)
	out := http.NewResponseController(w)
	beat := time.NewTicker(heartbeat)
	defer beat.Stop()
	for {
		text := ": nothing new\n\n"
		if set := setOf(sub); set.Revision != seen {
			seen = set.Revision
			data, _ := json.Marshal(set) // strings and numbers
			text = fmt.Sprintf("event: endpoints\nid: %s\ndata: %s\n\n", seen, data)
		}
		if _, err := w.Write([]byte(text)); err != nil || out.Flush() != nil {
			return
		}
		select {
		case <-sub.C():
		case <-beat.C:
		case <-ctx.Done():
			return
		}
	}
}

// setOf is what a subscription gives now. Its revision follows from the endpoints
// alone, so that it means the same after a restart.
func setOf(sub *discovery.Subscription) client.EndpointSet {
	list, _ := sub.Current()
	list = listOf(list)
	hash := fnv.New64a()
	encoder := json.NewEncoder(hash)
	for _, e := range list {
		e.Since = time.Time{}
		_ = encoder.Encode(e) // strings and numbers
	}
	return client.EndpointSet{Revision: strconv.FormatUint(hash.Sum64(), 36), Endpoints: list}
}
