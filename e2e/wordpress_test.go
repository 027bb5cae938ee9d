package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"strings"
	"testing"
)

// wordpress is a blog as a browser has it.
type wordpress struct {
	t     *testing.T
	url   string
	http  http.Client
	nonce string
}

const (
	blogUser     = "admin"
	blogPassword = "correct horse battery staple 9"
)

func openWordpress(t *testing.T, url string) *wordpress {
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	w := &wordpress{t: t, url: url, http: http.Client{Jar: jar}}
	t.Cleanup(w.http.CloseIdleConnections)
	return w
}

// try asks for a page and returns its status and text.
func (w *wordpress) try(method, path, kind string, body io.Reader, header ...string) (int, string, error) {
	req, err := http.NewRequestWithContext(w.t.Context(), method, w.url+path, body)
	if err != nil {
		return 0, "", err
	}
	if kind != "" {
		req.Header.Set("Content-Type", kind)
	}
	if w.nonce != "" {
		req.Header.Set("X-WP-Nonce", w.nonce)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := w.http.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 16<<20))
	return resp.StatusCode, string(text), err
}

func (w *wordpress) ask(method, path, kind string, body io.Reader, header ...string) string {
	w.t.Helper()
	status, text, err := w.try(method, path, kind, body, header...)
	if err != nil || status >= 400 {
		w.t.Fatalf("%s %s: status %d, %v: %.2000s", method, path, status, err, text)
	}
	return text
}

func (w *wordpress) get(path string) string { w.t.Helper(); return w.ask("GET", path, "", nil) }

// submit sends a form.
func (w *wordpress) submit(path string, fields ...string) string {
	w.t.Helper()
	form := url.Values{}
	for i := 0; i+1 < len(fields); i += 2 {
		form.Set(fields[i], fields[i+1])
	}
	return w.ask("POST", path, "application/x-www-form-urlencoded", strings.NewReader(form.Encode()))
}

// install goes through the page that a new blog shows.
func (w *wordpress) install(title string) {
	w.t.Helper()
	if page := w.get("/"); !strings.Contains(page, "wp-admin/install.php") && !strings.Contains(page, "setup") {
		w.t.Fatalf("a new blog shows %.2000s", page)
	}
	said := w.submit("/wp-admin/install.php?step=2", "weblog_title", title, "user_name", blogUser, "admin_password", blogPassword,
		"admin_password2", blogPassword, "pw_weak", "on", "admin_email", "admin@blog.test", "blog_public", "0", "language", "")
	if !strings.Contains(said, "Success!") {
		w.t.Fatalf("the installation says %.2000s", said)
	}
}

// login has the cookies and the nonce with which one may write.
func (w *wordpress) login() {
	w.t.Helper()
	w.get("/wp-login.php") // gives the cookie that the form asks for
	if page := w.submit("/wp-login.php", "log", blogUser, "pwd", blogPassword, "testcookie", "1"); !strings.Contains(page, "Dashboard") {
		w.t.Fatalf("after the login comes %.2000s", page)
	}
	w.nonce = w.get("/wp-admin/admin-ajax.php?action=rest-nonce")
	if len(w.nonce) != 10 {
		w.t.Fatalf("the nonce is %.200q", w.nonce)
	}
}

// publish writes a post and returns its number.
func (w *wordpress) publish(title, text string) int {
	w.t.Helper()
	body, err := json.Marshal(map[string]string{"title": title, "content": text, "status": "publish"})
	if err != nil {
		w.t.Fatal(err)
	}
	var post struct{ ID int }
	w.decode(w.ask("POST", "/index.php?rest_route=/wp/v2/posts", "application/json", bytes.NewReader(body)), &post)
	return post.ID
}

// upload sends a picture and returns the path that it is at.
func (w *wordpress) upload(name string, jpeg []byte) string {
	w.t.Helper()
	var media struct {
		Source string `json:"source_url"`
	}
	w.decode(w.ask("POST", "/index.php?rest_route=/wp/v2/media", "image/jpeg", bytes.NewReader(jpeg),
		"Content-Disposition", fmt.Sprintf("attachment; filename=%q", name)), &media)
	path, ok := strings.CutPrefix(media.Source, w.url)
	if !ok {
		w.t.Fatalf("the picture is at %q, which is not in %s", media.Source, w.url)
	}
	return path
}

func (w *wordpress) decode(text string, v any) {
	w.t.Helper()
	if err := json.Unmarshal([]byte(text), v); err != nil {
		w.t.Fatalf("%v in %.2000s", err, text)
	}
}
