package manifest

import (
	"strings"
	"time"

	"github.com/mayfly-run/mayfly"
)

const (
	maxProbeTime = time.Hour
	probeHint    = "write {http: /path}, {tcp: true}, {grpc: true} or {exec: [PROGRAM]}"
)

var probeKeys = []string{"http", "tcp", "grpc", "exec", "every", "timeout", "grace", "failures", "successes"}

// probe reads how an instance is asked whether it is well. A path alone is an
// HTTP probe.
func (d *decoder) probe(m map[string]any, key string) *mayfly.Probe {
	if text, ok := m[key].(string); ok && strings.HasPrefix(text, "/") {
		return &mayfly.Probe{HTTP: &mayfly.HTTPProbe{Path: d.path(m, key)}}
	}
	sub, under := d.mapping(m, key, probeHint)
	if sub == nil {
		return nil
	}
	defer d.done(sub)
	if sub.err = sub.keys(under, probeKeys, nil); sub.err != nil {
		return nil
	}
	p := &mayfly.Probe{}
	kinds := 0
	for _, kind := range []string{"http", "tcp", "grpc", "exec"} {
		if under[kind] != nil {
			kinds++
		}
	}
	if kinds != 1 {
		sub.fail("", probeHint, "exactly one of http, tcp, grpc and exec is needed")
		return nil
	}
	p.HTTP, p.TCP, p.GRPC = sub.httpProbe(under), sub.tcpProbe(under), sub.grpcProbe(under)
	if p.Exec = sub.words(under, "exec"); p.Exec != nil && len(p.Exec) == 0 {
		sub.fail("exec", "", "exec is empty")
	}
	p.Every, p.Timeout = sub.duration(under, "every", maxProbeTime), sub.duration(under, "timeout", maxProbeTime)
	p.Grace = sub.duration(under, "grace", maxProbeTime)
	p.Failures, p.Successes = int(sub.integer(under, "failures", 1, 10000)), int(sub.integer(under, "successes", 1, 10000))
	return p
}

func (d *decoder) httpProbe(m map[string]any) *mayfly.HTTPProbe {
	if m["http"] == nil {
		return nil
	}
	if _, ok := m["http"].(string); ok {
		return &mayfly.HTTPProbe{Path: d.path(m, "http")}
	}
	sub, under := d.mapping(m, "http", "write http: /path, or http: {path: /path, port: 80}")
	if sub == nil {
		return nil
	}
	defer d.done(sub)
	if sub.err = sub.keys(under, []string{"path", "port", "headers"}, nil); sub.err != nil {
		return nil
	}
	p := &mayfly.HTTPProbe{Path: "/", Port: uint16(sub.integer(under, "port", 1, 65535))}
	if under["path"] != nil {
		p.Path = sub.path(under, "path")
	}
	headers, values := sub.mapping(under, "headers", "write headers: {NAME: VALUE}")
	if headers == nil {
		return p
	}
	p.Headers = map[string]string{}
	for _, name := range headers.each(values) {
		value := headers.text(values, name)
		if name == "" || strings.ContainsAny(name, " :\r\n\t") || strings.ContainsAny(value, "\r\n\x00") {
			headers.fail(name, "", "%q is not a header", name)
		}
		p.Headers[name] = value
	}
	sub.done(headers)
	return p
}

func (d *decoder) path(m map[string]any, key string) string {
	text := d.text(m, key)
	if !strings.HasPrefix(text, "/") || strings.ContainsAny(text, " \r\n\t\x00") || len(text) > 1024 {
		d.fail(key, "write it like /health", "path %q is not one of a URL", text)
	}
	return text
}

func (d *decoder) tcpProbe(m map[string]any) *mayfly.TCPProbe {
	switch m["tcp"] {
	case nil:
		return nil
	case true, "true":
		return &mayfly.TCPProbe{}
	}
	return &mayfly.TCPProbe{Port: uint16(d.integer(m, "tcp", 1, 65535))}
}

func (d *decoder) grpcProbe(m map[string]any) *mayfly.GRPCProbe {
	switch m["grpc"] {
	case nil:
		return nil
	case true, "true":
		return &mayfly.GRPCProbe{}
	}
	if _, ok := m["grpc"].(map[string]any); !ok {
		return &mayfly.GRPCProbe{Port: uint16(d.integer(m, "grpc", 1, 65535))}
	}
	sub, under := d.mapping(m, "grpc", "")
	defer d.done(sub)
	if sub.err = sub.keys(under, []string{"port", "service"}, nil); sub.err != nil {
		return nil
	}
	return &mayfly.GRPCProbe{Port: uint16(sub.integer(under, "port", 1, 65535)), Service: sub.text(under, "service")}
}

// probePorts checks that every port that is probed is one of the workload's.
func (d *decoder) probePorts(key string, p *mayfly.Probe, w *mayfly.Workload) {
	if p == nil || p.Exec != nil {
		return
	}
	var port uint16
	var kind string
	switch {
	case p.HTTP != nil:
		port, kind = p.HTTP.Port, "http"
	case p.TCP != nil:
		port, kind = p.TCP.Port, "tcp"
	case p.GRPC != nil:
		port, kind = p.GRPC.Port, "grpc"
	}
	at := d.under(key)
	defer d.done(at)
	if port == 0 {
		if len(w.Provides) == 0 {
			at.fail(kind, "add provides: {http: PORT}, or name the port", "nothing says which port to probe")
		}
		return
	}
	for _, provided := range w.Provides {
		if provided.Port == port {
			return
		}
	}
	if w.Service != nil {
		for _, published := range w.Service.Ports {
			if published.Container == port {
				return
			}
		}
	}
	at.fail(kind, "add it to provides, or leave the port out", "the port %d that %s probes is not provided", port, key)
}
