package router

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/discovery"
)

// Endpoints tells where the instances of services are. The discovery package
// implements it.
type Endpoints interface {
	Watch(c discovery.Consumer, r mayfly.Require) (*discovery.Subscription, error)
}

// serveService gives a request to an instance of a service that is ready, or waits
// for one.
func (r *Router) serveService(w http.ResponseWriter, req *http.Request, t *target, v *visit) {
	wl := &t.active.Workload
	body := newRequestBody(w, req.Body)
	defer body.leave()
	ctx := req.Context()
	if wl.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, wl.Timeout, mayfly.Errorf(mayfly.TimedOut, "service %s did not answer within its timeout of %v", wl.Name, wl.Timeout))
		defer cancel()
	}
	x := visitor{backend: t.backend, port: t.port}
	x.careful = !repeatable(req.Method) || !body.eof.Load()
	status, err := r.relay(ctx, w, req, v, body, &x, wl)
	if x.up != nil {
		v.instance = x.up.Instance
	}
	if err == nil {
		return
	}
	told := r.blame(ctx, wl, body, err)
	if status != 0 || told == errClientLeft {
		body.left = true
		panic(http.ErrAbortHandler) // half an answer must not look whole
	}
	if mayfly.KindOf(told) == mayfly.TooLarge && !expects(req) {
		body.drain()
	}
	problem(w, told, "")
}

// relay takes a request through the gate of its service and to an instance.
func (r *Router) relay(ctx context.Context, w http.ResponseWriter, req *http.Request, v *visit, body *requestBody, x *visitor, wl *mayfly.Workload) (int, error) {
	if wl.MaxBody > 0 && !body.eof.Load() {
		if req.ContentLength > wl.MaxBody {
			return 0, mayfly.Errorf(mayfly.TooLarge, "the body has %d bytes; service %s takes %d at most", req.ContentLength, wl.Name, wl.MaxBody)
		}
		body.limit(wl.MaxBody)
	}
	if err := r.admit(ctx, x, wl); err != nil {
		return 0, err
	}
	defer x.leave()
	if !body.eof.Load() {
		body.control.EnableFullDuplex()
		defer context.AfterFunc(ctx, body.interrupt)()
	}
	for m := (moves{}); ; {
		status, err := r.forward(ctx, w, req, v, body, x)
		e := (*movableError)(nil)
		if !errors.As(err, &e) {
			return status, err
		}
		if ctx.Err() != nil || !m.on(e) || !r.another(ctx, x) {
			return status, e.error
		}
	}
}

// another has another instance get a request whose instance ended before it had
// answered. It waits for one, and reports false where there is none in time, or the
// instance goes on: then the answer that it gave is none.
func (r *Router) another(ctx context.Context, x *visitor) bool {
	ctx, cancel := context.WithTimeout(ctx, r.opts.WakeTimeout)
	defer cancel()
	news := time.NewTimer(deathNews)
	defer news.Stop()
	b := x.backend
	for {
		changed := b.changed()
		if x.up != nil && x.up.gone.Load() {
			x.up.done() // whoever drains it waits for that
			x.up = nil
			news.Stop()
		}
		if x.up == nil {
			if x.up = b.pick(x.port); x.up != nil {
				return true
			}
		}
		select {
		case <-changed:
		case <-news.C:
			return false
		case <-ctx.Done():
			return false
		}
	}
}

// admit waits until an instance has room for the request, and chooses it.
func (r *Router) admit(ctx context.Context, x *visitor, wl *mayfly.Workload) error {
	b := x.backend
	if b.gate.pass() {
		if x.up = b.pick(x.port); x.up != nil {
			return nil
		}
		b.gate.leave()
	}
	ctx, cancel := context.WithTimeoutCause(ctx, r.opts.WakeTimeout, errNotReady)
	defer cancel()
	err := b.gate.enter(ctx)
	for err == nil {
		changed := b.changed()
		if x.up = b.pick(x.port); x.up != nil {
			return nil
		}
		select { // the port of this route is not ready, though another one is
		case <-changed:
		case <-ctx.Done():
			b.gate.leave()
			err = context.Cause(ctx)
		}
	}
	if errors.Is(err, errNotReady) {
		if b.ready() {
			return mayfly.Errorf(mayfly.Busy, "all instances of service %s were busy for %v", wl.Name, r.opts.WakeTimeout).
				WithHint("raise its scale.max or scale.concurrency")
		}
		return mayfly.Errorf(mayfly.Unavailable, "no instance of service %s became ready within %v", wl.Name, r.opts.WakeTimeout).
			WithHint("`mayfly why %s` says what it waits for", wl.Name)
	}
	return err
}

var errNotReady = errors.New("no instance became ready")

// blame makes an error into what the client is told.
func (r *Router) blame(ctx context.Context, wl *mayfly.Workload, body *requestBody, err error) error {
	var me *mayfly.Error
	var tooLarge *http.MaxBytesError
	var bad *bodyError
	switch {
	case body.over(ctx) && mayfly.KindOf(err) != mayfly.Busy && !errors.Is(err, errNotReady):
		_, told := endOf(ctx)
		return told
	case errors.As(err, &tooLarge):
		return mayfly.Errorf(mayfly.TooLarge, "the body is larger than the %d bytes that service %s takes", tooLarge.Limit, wl.Name)
	case errors.As(err, &bad):
		return mayfly.Errorf(mayfly.Invalid, "the body broke off: %w", bad)
	case errors.As(err, &me):
		return me
	case errors.As(err, new(*errReply)):
		return mayfly.Errorf(mayfly.Failed, "service %s cannot be understood: %w", wl.Name, err)
	}
	return mayfly.Errorf(mayfly.Failed, "service %s broke the connection off: %w", wl.Name, err)
}

// repeatable reports whether a request of a method may be sent twice (RFC 9110,
// section 9.2.2).
func repeatable(method string) bool {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace, http.MethodPut, http.MethodDelete:
		return true
	}
	return false
}

// Load is what web requests have a workload do at this moment.
func (r *Router) Load(space, workload string) mayfly.Load {
	l := r.gate(&mayfly.Workload{Space: space, Name: workload}).load(time.Now())
	return mayfly.Load{InFlight: l.InFlight, Waiting: l.Waiting, Oldest: l.Oldest}
}
