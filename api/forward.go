package api

import (
	"context"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/mayfly-run/mayfly"
	client "github.com/mayfly-run/mayfly/sdk/go"
)

// forward registers connections to services.
func (r *router) forward() {
	var params []*huma.Param
	for name, text := range map[string]string{"space": "the space", "service": "to this service", "role": "to this role", "port": "to this name of a port", "tag": "KEY=VALUE or KEY~PATTERN"} {
		params = append(params, &huma.Param{Name: name, In: "query", Schema: &huma.Schema{Type: huma.TypeString}, Description: text})
	}
	o := operation{id: "forward", route: "POST /v1/forward", summary: "Connect to an endpoint of a service",
		detail: "The connection is upgraded to " + client.ForwardProtocol + ": from then on it is one to the service. " + client.HeaderEndpoint + " says which endpoint it is."}
	r.raw(o, []string{http.MethodPost}, params, map[string]*huma.Response{"101": {Description: "connected"}}, func(w http.ResponseWriter, req *http.Request) {
		if err := r.serveForward(w, req); err != nil {
			r.fail(w, req, err)
		}
	})
}

// serveForward returns an error before the connection is upgraded.
func (r *router) serveForward(w http.ResponseWriter, req *http.Request) error {
	if err := need(r.services.Endpoints, "endpoints"); err != nil {
		return err
	}
	if !strings.EqualFold(req.Header.Get("Upgrade"), client.ForwardProtocol) || !strings.EqualFold(req.Header.Get("Connection"), "Upgrade") {
		return mayfly.Errorf(mayfly.Invalid, "forwarding takes an upgraded connection").
			WithHint("send Connection: Upgrade and Upgrade: %s", client.ForwardProtocol)
	}
	query, err := queryOf(req)
	if err != nil {
		return err
	}
	want, err := wanted(query)
	if err != nil {
		return err
	}
	r.streams.Add(1)
	defer r.streams.Done()
	ctx, stop := r.untilClosing(req.Context())
	defer stop()
	to, e, err := r.services.Endpoints.Dial(ctx, query.Get("space"), want)
	if err != nil {
		return because(ctx, err)
	}
	defer to.Close()
	from, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return err
	}
	defer from.Close()
	_ = from.SetDeadline(time.Time{}) // a connection that cannot do this fails at the next line
	head := "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: " + client.ForwardProtocol + "\r\n" +
		client.HeaderEndpoint + ": " + net.JoinHostPort(e.Address, strconv.Itoa(int(e.Port))) + "\r\n\r\n"
	if _, err := io.WriteString(from, head); err != nil {
		return nil
	}
	// The request's own context ends with the client's half already.
	ending, over := r.untilClosing(context.WithoutCancel(ctx))
	defer over()
	defer context.AfterFunc(ending, func() {
		from.Close()
		to.Close()
	})()
	var ways sync.WaitGroup
	ways.Go(func() { pass(to, buffered) })
	ways.Go(func() { pass(from, to) })
	ways.Wait()
	return nil
}

// pass copies one direction of a connection, and ends it.
func pass(to net.Conn, from io.Reader) {
	_, err := io.Copy(to, from)
	if half, ok := to.(interface{ CloseWrite() error }); err == nil && ok && half.CloseWrite() == nil {
		return
	}
	to.Close()
	if c, ok := from.(io.Closer); ok {
		c.Close()
	}
}
