package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/mayfly-run/mayfly"
	client "github.com/mayfly-run/mayfly/sdk/go"
)

// exitStatus is how call ends for an answer of 300 or more, as `curl -f` does.
const exitStatus = 22

type callFlags struct {
	data, method, path string
	memory             string
	headers            []string
	include, verbose   bool
}

func (c *cli) call() *cobra.Command {
	var f callFlags
	cmd := &cobra.Command{
		Use:   "call [flags] FUNCTION",
		Short: "Call a function and print its answer",
		Long: `Call a function and print the body of its answer. When the answer's status is
300 or more, the body is printed all the same, one line on stderr says so, and
the exit status is 22. It is 1 when there is no answer.

The content type is that of the file's name; for data, application/json when it
is JSON and text/plain when it is not. -H sets another.`,
		Example: `  mayfly call thumbnail -d @photo.jpg > small.jpg
  mayfly call greet -d '{"name": "Ada"}'
  tail -f log | mayfly call count -d -`,
		Args:              exactly("function"),
		ValidArgsFunction: c.completeWorkloads(),
		RunE: func(cmd *cobra.Command, args []string) error {
			k, closeBody, err := f.call(c.stdin)
			if err != nil {
				return err
			}
			defer closeBody()
			cl, err := c.client()
			if err != nil {
				return err
			}
			resp, err := cl.Call(cmd.Context(), args[0], k)
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			return c.printAnswer(resp, args[0], f)
		},
	}
	fs := cmd.Flags()
	fs.StringVarP(&f.data, "data", "d", "", "the body: text, @FILE, or - for stdin")
	fs.StringArrayVarP(&f.headers, "header", "H", nil, "'NAME: VALUE'; again for more")
	fs.StringVarP(&f.method, "method", "X", "POST", "the method of the request")
	fs.StringVar(&f.path, "path", "/", "what the function sees as path and query")
	fs.StringVarP(&f.memory, "memory", "m", "", "limit of this call, such as 512m, above the function's")
	fs.BoolVarP(&f.include, "include", "i", false, "print the status and the headers too")
	fs.BoolVarP(&f.verbose, "verbose", "v", false, "say on stderr which run it was and how long it took")
	return cmd
}

// call opens the body and returns what closes it.
func (f *callFlags) call(stdin io.Reader) (k client.Call, closeBody func(), err error) {
	k = client.Call{Method: strings.ToUpper(f.method), Path: f.path, Header: http.Header{}}
	closeBody = func() {}
	if f.memory != "" {
		if k.Memory, err = parseSize(f.memory); err != nil {
			return k, closeBody, usagef("--memory: %w", err)
		}
	}
	contentType := ""
	switch {
	case f.data == "":
	case f.data == "-":
		k.Body, contentType = io.NopCloser(stdin), "application/octet-stream"
	case f.data[0] == '@':
		file, err := os.Open(f.data[1:])
		if err != nil {
			return k, closeBody, mayfly.Errorf(mayfly.Invalid, "read the data: %w", err)
		}
		k.Body, closeBody = file, func() { file.Close() }
		if contentType = mime.TypeByExtension(filepath.Ext(file.Name())); contentType == "" {
			contentType = "application/octet-stream"
		}
	default:
		k.Body, contentType = bytes.NewReader([]byte(f.data)), "text/plain; charset=utf-8"
		if json.Valid([]byte(f.data)) {
			contentType = "application/json"
		}
	}
	if contentType != "" {
		k.Header.Set("Content-Type", contentType)
	}
	for _, h := range f.headers {
		name, value, ok := strings.Cut(h, ":")
		if !ok || strings.TrimSpace(name) == "" {
			closeBody()
			return k, func() {}, usagef("--header %q is not 'NAME: VALUE'", h)
		}
		if name = http.CanonicalHeaderKey(strings.TrimSpace(name)); name == "Content-Type" {
			k.Header.Del(name)
		}
		k.Header.Add(name, strings.TrimSpace(value))
	}
	return k, closeBody, nil
}

func (c *cli) printAnswer(resp *http.Response, name string, f callFlags) error {
	if f.verbose {
		fmt.Fprintf(c.stderr, "run %s, %s\n", plain(resp.Header.Get(client.HeaderRun)), plain(resp.Header.Get("Server-Timing")))
	}
	if f.include {
		fmt.Fprintf(c.stdout, "%s %s\n", resp.Proto, resp.Status)
		if err := resp.Header.Write(c.stdout); err != nil {
			return err
		}
		fmt.Fprintln(c.stdout)
	}
	ours := resp.StatusCode >= 300 && strings.HasPrefix(resp.Header.Get("Content-Type"), client.ContentProblem)
	if ours && !f.include {
		if err := problemIn(resp); err != nil {
			return err
		}
	}
	if err := c.pour(resp.Body); err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) {
			err = errors.New("it broke off")
		}
		return mayfly.Errorf(mayfly.Failed, "the answer of %s: %w", name, err)
	}
	if resp.StatusCode >= 300 {
		text := fmt.Sprintf("%s answered %s", name, resp.Status)
		if run := resp.Header.Get(client.HeaderRun); run != "" {
			text += "; see `mayfly logs " + plain(run) + "`"
		}
		fmt.Fprintf(c.stderr, "mayfly: %s\n", text)
		return exitError(exitStatus)
	}
	return nil
}

// problemIn returns the error in an answer that the platform gave in place of
// the function.
func problemIn(resp *http.Response) error {
	text, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return err
	}
	var p client.Problem
	if json.Unmarshal(text, &p) != nil || !strings.HasPrefix(p.Type, "urn:mayfly:error:") {
		resp.Body = io.NopCloser(io.MultiReader(bytes.NewReader(text), resp.Body))
		return nil
	}
	return p.Err()
}
