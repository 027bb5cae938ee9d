package router

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/textproto"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/mayfly-run/mayfly"
)

// maxCGIHead bounds the head of a CGI answer, in bytes.
const maxCGIHead = 64 << 10

// cgi runs the program as a CGI script (RFC 3875).
func (x *run) cgi(ctx context.Context, w *answer, req *http.Request) (int, error) {
	in, size, err := spool(req)
	if err != nil {
		return 0, err
	}
	p := x.lease.Program
	p.Env = append(append(p.Env[:len(p.Env):len(p.Env)], x.identity().Environment()...), cgiEnvironment(req, size)...)
	p.Stdin = in
	out, theirs, err := x.lease.Pipe(false)
	if err != nil {
		in.Close()
		return 0, err
	}
	defer out.Close()
	p.Stdout = theirs
	main, err := x.lease.Start(ctx, p)
	theirs.Close()
	in.Close()
	if err != nil {
		return 0, x.startError(ctx, p.Argv[0], err)
	}
	defer context.AfterFunc(ctx, func() { out.SetReadDeadline(time.Unix(1, 0)) })()
	head := &io.LimitedReader{R: out, N: maxCGIHead}
	br := bufio.NewReader(head)
	h, herr := textproto.NewReader(br).ReadMIMEHeader()
	status, serr := cgiStatus(http.Header(h))
	if herr != nil || serr != nil {
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		io.Copy(io.Discard, out)
		<-main.Done()
		if e := x.exitOf(main); e.Reason != mayfly.Succeeded {
			return 0, &exitError{exit: e}
		}
		return 0, mayfly.Errorf(mayfly.Failed, "function %s did not answer as CGI: %w", x.record.Workload, errors.Join(herr, serr))
	}
	head.N = 1 << 62
	for name, values := range h {
		if name != "Status" {
			w.Header()[name] = values
		}
	}
	w.WriteHeader(status)
	if err := stream(w, br); err != nil {
		return status, err
	}
	if ctx.Err() != nil {
		return status, context.Cause(ctx)
	}
	<-main.Done()
	if e := x.exitOf(main); e.Reason != mayfly.Succeeded {
		return status, &exitError{exit: e}
	}
	return status, nil
}

// spool writes the body to a file without a name, because a script is told its
// length before it reads.
func spool(req *http.Request) (*os.File, int64, error) {
	f, err := os.CreateTemp("", "mayfly-cgi-")
	if err != nil {
		return nil, 0, err
	}
	os.Remove(f.Name())
	n, err := io.Copy(f, req.Body)
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		f.Close()
		return nil, 0, err
	}
	return f, n, nil
}

// cgiEnvironment is the request as RFC 3875, section 4.1 passes it. The header
// Proxy stays out, for programs take HTTP_PROXY for their own setting (httpoxy).
func cgiEnvironment(req *http.Request, size int64) []string {
	host, port, err := net.SplitHostPort(req.Host)
	if err != nil {
		host, port = req.Host, "80"
	}
	remote, _, _ := net.SplitHostPort(req.RemoteAddr)
	env := []string{
		"GATEWAY_INTERFACE=CGI/1.1",
		"SERVER_SOFTWARE=mayfly",
		"SERVER_PROTOCOL=" + req.Proto,
		"SERVER_NAME=" + host,
		"SERVER_PORT=" + port,
		"REQUEST_METHOD=" + req.Method,
		"REQUEST_URI=" + req.URL.RequestURI(),
		"QUERY_STRING=" + req.URL.RawQuery,
		"SCRIPT_NAME=",
		"PATH_INFO=" + req.URL.Path,
		"REMOTE_ADDR=" + remote,
		"REMOTE_HOST=" + remote,
		"HTTP_HOST=" + req.Host,
	}
	if size > 0 {
		env = append(env, "CONTENT_LENGTH="+strconv.FormatInt(size, 10))
	}
	if t := req.Header.Get("Content-Type"); t != "" {
		env = append(env, "CONTENT_TYPE="+t)
	}
	for name, values := range req.Header {
		key := strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
		switch key {
		case "PROXY", "CONTENT_LENGTH", "CONTENT_TYPE", "AUTHORIZATION":
			continue
		}
		sep := ", "
		if key == "COOKIE" {
			sep = "; "
		}
		env = append(env, "HTTP_"+key+"="+strings.Join(values, sep))
	}
	return env
}

// cgiStatus is the status of a CGI answer (RFC 3875, section 6.2).
func cgiStatus(h http.Header) (int, error) {
	if s := h.Get("Status"); s != "" {
		code, _, _ := strings.Cut(s, " ")
		n, err := strconv.Atoi(code)
		if err != nil || n < 200 || n > 599 {
			return 0, errors.New("bad Status: " + strconv.Quote(s))
		}
		return n, nil
	}
	if h.Get("Location") != "" {
		return http.StatusFound, nil
	}
	if h.Get("Content-Type") == "" {
		return 0, errors.New("neither Status, Location nor Content-Type in its head")
	}
	return http.StatusOK, nil
}

// stream copies as it comes.
func stream(w *answer, r io.Reader) error {
	buf := make([]byte, 32<<10)
	for {
		n, err := r.Read(buf)
		if n > 0 {
			if _, werr := w.Write(buf[:n]); werr != nil {
				return werr
			}
			w.flush()
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
