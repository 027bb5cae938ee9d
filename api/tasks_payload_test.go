package api_test

import (
	"bytes"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/queue"
	client "github.com/mayfly-run/mayfly/sdk/go"
)

// TestPayloadsInAndOut: whatever their size and their way in, they come out as
// they were.
func TestPayloadsInAndOut(t *testing.T) {
	if client.MaxInline != queue.MaxInline {
		t.Fatal("client and queue disagree about what is large")
	}
	up, all := serveTasks(t, queue.Options{})
	c := up.client
	for _, size := range []int{0, 5, client.MaxInline, client.MaxInline + 1, 70 << 20} {
		data := bytes.Repeat([]byte("\x00mayfly\n"), size/8+1)[:size]
		file := filepath.Join(t.TempDir(), "payload")
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
		ways := map[string]func() (string, error){
			"bytes": func() (string, error) {
				task, err := c.Submit(t.Context(), mayfly.Submission{Workload: "w", Payload: data})
				return task.ID, err
			},
			"file": func() (string, error) {
				f, err := os.Open(file)
				if err != nil {
					return "", err
				}
				defer f.Close()
				task, err := c.SubmitFrom(t.Context(), mayfly.Submission{Workload: "w"}, f)
				return task.ID, err
			},
			"stream": func() (string, error) {
				task, err := c.SubmitFrom(t.Context(), mayfly.Submission{Workload: "w", Space: mayfly.DefaultSpace}, io.MultiReader(bytes.NewReader(data)))
				return task.ID, err
			},
			"webhook": func() (string, error) {
				task, err := c.SubmitRaw(t.Context(), client.RawTask{Workload: "w"}, bytes.NewReader(data))
				return task.ID, err
			},
		}
		for name, submit := range ways {
			id, err := submit()
			if err != nil {
				t.Fatalf("%d bytes by %s: %v", size, name, err)
			}
			body, err := c.OpenTaskPayload(t.Context(), id)
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(body)
			body.Close()
			if err != nil || !bytes.Equal(got, data) {
				t.Errorf("%d bytes by %s: got %d, %v", size, name, len(got), err)
			}
			task := all.run(t, "i", mayfly.Exit{Reason: mayfly.Succeeded}, "")
			if task.ID != id || task.Size != size {
				t.Errorf("%d bytes by %s: %+v", size, name, task)
			}
		}
	}
}

// TestPayloadsThatAreRefused: with a sentence that names the limit, and nothing
// is left of them.
func TestPayloadsThatAreRefused(t *testing.T) {
	const limit = 2 << 20
	up, all := serveTasks(t, queue.Options{MaxPayload: limit})
	large := bytes.Repeat([]byte("x"), 12<<20) // of more, what is still sent is not read to its end
	say := "the payload is larger than the limit of 2097152 bytes"
	for name, submit := range map[string]func() error{
		"upload": func() error { _, err := up.client.PutPayload(t.Context(), bytes.NewReader(large)); return err },
		"upload in chunks": func() error {
			_, err := up.client.PutPayload(t.Context(), io.MultiReader(bytes.NewReader(large)))
			return err
		},
		"bytes": func() error {
			_, err := up.client.Submit(t.Context(), mayfly.Submission{Workload: "w", Payload: large})
			return err
		},
		"webhook": func() error {
			_, err := up.client.SubmitRaw(t.Context(), client.RawTask{Workload: "w"}, bytes.NewReader(large))
			return err
		},
		"webhook in chunks": func() error {
			_, err := up.client.SubmitRaw(t.Context(), client.RawTask{Workload: "w"}, io.MultiReader(bytes.NewReader(large)))
			return err
		},
	} {
		if err := submit(); mayfly.KindOf(err) != mayfly.TooLarge || !strings.Contains(err.Error(), say) {
			t.Errorf("%s: %v", name, err)
		}
	}
	status, _, text := post(t, up.tcp+"/v1/workloads/nobody/tasks/webhook", string(large[:limit]), nil)
	if status != 404 {
		t.Errorf("a webhook to nobody: %d %s", status, text)
	}
	broken := func(path string) {
		t.Helper()
		conn, err := net.Dial("tcp", strings.TrimPrefix(up.tcp, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		io.WriteString(conn, "POST "+path+" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 2000000\r\n\r\n"+string(large[:1500000]))
		conn.(*net.TCPConn).CloseWrite()
		answer, err := io.ReadAll(conn)
		if err != nil || !strings.Contains(string(answer), "HTTP/1.1 400") {
			t.Errorf("%s: %.300q, %v", path, answer, err)
		}
	}
	broken("/v1/payloads")
	broken("/v1/workloads/w/tasks/webhook")

	var p client.Problem
	status, _, text = post(t, up.tcp+"/v1/tasks", `{"tasks": [{"workload": "w", "payloadRef": "x", "text": "y"}]}`, nil)
	if err := json.Unmarshal([]byte(text), &p); err != nil || status != http.StatusBadRequest || !strings.Contains(p.Detail, "exclude") {
		t.Errorf("%d %s", status, text)
	}
	entries, err := os.ReadDir(filepath.Join(all.dir, "payloads"))
	if err != nil || len(entries) > 0 {
		t.Errorf("%d files are left, %v", len(entries), err)
	}
}
