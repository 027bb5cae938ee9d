package node

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/build"
	"github.com/mayfly-run/mayfly/container"
	"github.com/mayfly-run/mayfly/image"
	"github.com/mayfly-run/mayfly/network"
)

// Bounds of what builds leave in the data directory.
const (
	maxBuilds   = 2                  // at once
	keepBuilds  = 4 << 30            // bytes of what was built; the least used goes first
	keepUploads = 2 << 30            // bytes of code that was uploaded
	buildPids   = 2048               // processes and threads of one build
	buildLog    = 8 << 20            // bytes
	buildUser   = "65534:65534"      // nobody
	buildFiles  = 1 << 16            // open files
	buildCerts  = "certificates.pem" // in /run/mayfly: whom this machine trusts
)

// built returns the code of a workload as its build makes it, as a tar. What was
// built before of the same code with the same tools is not built again.
func (n *Node) built(ctx context.Context, w *mayfly.Workload, fresh bool, progress func(string)) (*os.File, build.Recipe, error) {
	r, err := build.RecipeOf(w.Build)
	if err != nil {
		return nil, r, err
	}
	stack, base := w.Stack, w.Base
	if r.Tool != "" {
		stack, base = r.Tool, nil
	}
	tools, err := n.stacks.EnsureTools(ctx, stack, base, &lineWriter{each: progress})
	if err != nil {
		return nil, r, err
	}
	key, err := buildKey(w, r, tools)
	if err != nil {
		return nil, r, err
	}
	select {
	case n.building <- struct{}{}:
		defer func() { <-n.building }()
	default:
		progress("waiting for other builds")
		select {
		case n.building <- struct{}{}:
			defer func() { <-n.building }()
		case <-ctx.Done():
			return nil, r, context.Cause(ctx)
		}
	}
	name := filepath.Join(n.dir, "builds", key)
	if f := builtBefore(name, fresh); f != nil {
		progress("nothing to build: this code was built before")
		return f, r, nil
	}
	m := making{w: w, recipe: r, tools: tools, stack: stack, progress: progress}
	if err := n.buildParts(ctx, m, name, fresh); err != nil {
		return nil, r, err
	}
	f, err := os.Open(name)
	return f, r, err
}

// making is a build as it is asked for.
type making struct {
	w        *mayfly.Workload
	recipe   build.Recipe
	tools    image.Image
	stack    string
	progress func(string)
}

// buildParts builds into the file name. What is installed is kept apart, where it does not
// depend on the rest of the code, and serves until that which says what it is changes.
func (n *Node) buildParts(ctx context.Context, m making, name string, fresh bool) error {
	code, err := n.openCode(m.w.Code)
	if err != nil {
		return err
	}
	defer code.Close()
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		return err
	}
	needs, err := os.CreateTemp(filepath.Dir(name), partPrefix)
	if err != nil {
		return err
	}
	defer os.Remove(needs.Name())
	defer needs.Close()
	sum := sha256.New()
	apart, err := build.Needs(m.w.Build, code, io.MultiWriter(needs, sum))
	if err != nil {
		return err
	}
	if _, err := code.Seek(0, io.SeekStart); err != nil {
		return err
	}
	if !apart {
		return n.build(ctx, m, code, name)
	}
	first, rest := m, m
	install, then := m.recipe.Steps(m.w.Build)
	first.recipe = install
	key := sha256.Sum256([]byte(strings.Join([]string{"needs", hex.EncodeToString(sum.Sum(nil)), install.Hash(), m.tools.Digest}, " ")))
	installed, err := n.installed(ctx, first, needs, filepath.Join(filepath.Dir(name), hex.EncodeToString(key[:])), fresh)
	if err != nil {
		return err
	}
	defer installed.Close()
	out, err := os.CreateTemp(filepath.Dir(name), partPrefix)
	if err != nil {
		return err
	}
	defer os.Remove(out.Name())
	defer out.Close()
	if err := build.Join(m.w.Build, code, installed, out); err != nil {
		return err
	}
	if then == nil {
		return n.keep(out, name)
	}
	if _, err := out.Seek(0, io.SeekStart); err != nil {
		return err
	}
	rest.recipe = *then
	return n.build(ctx, rest, out, name)
}

// installed returns what was installed for code that needs the same, or installs it.
func (n *Node) installed(ctx context.Context, m making, needs *os.File, name string, fresh bool) (*os.File, error) {
	if f := builtBefore(name, fresh); f != nil {
		m.progress("what it needs was installed before")
		return f, nil
	}
	if _, err := needs.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	if err := n.build(ctx, m, needs, name); err != nil {
		return nil, err
	}
	return os.Open(name)
}

// keep gives what was built its name, and lets go of what was of use longest ago.
func (n *Node) keep(built *os.File, name string) error {
	if err := giveName(built, name); err != nil {
		return err
	}
	trim(filepath.Dir(name), keepBuilds)
	return nil
}

// giveName gives a file its name when all of it is on disk: one that is found under
// such a name is taken as whole, also after a power loss.
func giveName(f *os.File, name string) error {
	if err := f.Sync(); err != nil {
		return err
	}
	return os.Rename(f.Name(), name)
}

// builtBefore opens what was built under a name; nil where there is nothing, or it is to
// be built afresh.
func builtBefore(name string, fresh bool) *os.File {
	if fresh {
		return nil
	}
	f, err := os.Open(name)
	if err != nil {
		return nil
	}
	now := time.Now()
	os.Chtimes(name, now, now) // it was of use, so it stays longer
	return f
}

// buildKey stands for all that the outcome of a build depends on.
func buildKey(w *mayfly.Workload, r build.Recipe, tools image.Image) (string, error) {
	text, err := json.Marshal([]any{w.Build, w.Code, r.Hash(), tools.Digest})
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:]), nil
}

// build runs a recipe on code in a container of its own, and puts what comes out of
// it into the file name.
//
// The container is nobody's, and has neither the API nor, unless the build fetches
// something, a network. What it writes is in memory and counts against its limit.
// It is gone when build returns, and a daemon that was killed meanwhile leaves one
// that the next daemon knows nothing of and discards.
func (n *Node) build(ctx context.Context, m making, code *os.File, name string) error {
	w, r, progress := m.w, m.recipe, m.progress
	progress(fmt.Sprintf("building with %s on stack %s", w.Build.Recipe, m.stack))
	limit := cmp.Or(n.opts.BuildTime, 10*time.Minute)
	ctx, cancel := context.WithTimeoutCause(ctx, limit, mayfly.Errorf(mayfly.TimedOut, "the build of %s took longer than %s", w.Name, limit).
		WithHint("see mayfly up --build-time"))
	defer cancel()
	out, err := os.CreateTemp(filepath.Dir(name), partPrefix)
	if err != nil {
		return err
	}
	defer os.Remove(out.Name())
	defer out.Close()

	s, err := n.buildSandbox(ctx, w, r, m.tools.Digest)
	if ctx.Err() != nil && err != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		return err
	}
	defer func() {
		s.Remove()
		<-s.Ended()
		n.releaseImages(context.WithoutCancel(ctx), s.ID)
	}()
	if err := n.runBuild(ctx, s, w, r, code, out, progress); err != nil {
		return err
	}
	return n.keep(out, name)
}

// partPrefix begins the names of files that are not whole yet.
const partPrefix = ".part-"

// runBuild runs a recipe and returns when its container has ended.
func (n *Node) runBuild(ctx context.Context, s *container.Sandbox, w *mayfly.Workload, r build.Recipe, code, out *os.File, progress func(string)) error {
	ours, theirs, err := s.Pipe(false)
	if err != nil {
		return err
	}
	defer ours.Close()
	said := lastWordsOf{each: progress}
	attached, told := make(chan struct{}), make(chan error, 1)
	go func() {
		told <- s.Attach(context.WithoutCancel(ctx), func() { close(attached) }, said.take)
	}()
	select {
	case <-attached:
	case err := <-told:
		theirs.Close()
		return err
	}
	_, err = s.Start(ctx, container.Program{Argv: r.Argv, Env: s.Env(), Dir: "/tmp", Stdin: code, Stdout: theirs})
	theirs.Close()
	if err != nil {
		s.Kill()
		<-told
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return mayfly.Errorf(mayfly.Failed, "the build of %s: execute %s: %w", w.Name, r.Argv[0], err)
	}
	written := make(chan error, 1)
	go func() {
		size, err := io.Copy(out, io.LimitReader(ours, build.MaxBuilt+build.MaxBuilt/4)) // the tar is larger than the files
		if size >= build.MaxBuilt+build.MaxBuilt/4 {
			s.Blame(mayfly.Rejected, "what it makes is too large")
			s.Kill()
		}
		written <- err
	}()
	select {
	case <-s.Ended():
	case <-ctx.Done():
		s.Kill()
		<-s.Ended()
	}
	logErr, err := <-told, <-written
	said.end()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if e := s.Exit(); e.Reason != mayfly.Succeeded {
		return n.buildFailure(w, s, e, said.last)
	}
	return errors.Join(err, logErr)
}

// buildFailure says why a build failed and what to do about it.
func (n *Node) buildFailure(w *mayfly.Workload, s *container.Sandbox, e mayfly.Exit, last []string) error {
	why, hint := fmt.Sprintf("exit code %d", e.Code), ""
	switch {
	case e.Reason == mayfly.OutOfMemory || s.Starved():
		why = fmt.Sprintf("it ran out of memory: it may use %d MB, its files included", n.buildMemory()>>20)
		hint = "mayfly up --build-memory gives more"
	case e.Reason == mayfly.Rejected:
		why = fmt.Sprintf("%s: more than %d MB", e.Detail, build.MaxBuilt>>20)
	case e.Reason != mayfly.ExitedNonZero:
		why = fmt.Sprintf("%s: %s", e.Reason, e.Detail)
	}
	if cause, hint := build.Unreached(w.Build, last); cause != "" && e.Reason == mayfly.ExitedNonZero {
		return mayfly.Errorf(mayfly.Failed, "the build of %s cannot fetch what it needs with %s: %s", w.Name, w.Build.Recipe, cause).WithHint("%s", hint)
	}
	if len(last) > 0 {
		why += ". Its log ends with:\n" + strings.Join(last, "\n")
	}
	err := mayfly.Errorf(mayfly.Failed, "the build of %s failed: %s", w.Name, why)
	if hint != "" {
		return err.WithHint("%s", hint)
	}
	return err
}

// buildMemory is how much memory a build may use, in bytes.
func (n *Node) buildMemory() int64 {
	return cmp.Or(n.opts.BuildMemory, min(2<<30, n.opts.memory/2))
}

// buildSandbox makes the container of a build.
func (n *Node) buildSandbox(ctx context.Context, w *mayfly.Workload, r build.Recipe, digest string) (_ *container.Sandbox, err error) {
	id := mayfly.NewID()
	defer func() {
		if err != nil {
			n.releaseImages(context.WithoutCancel(ctx), id)
		}
	}()
	files := map[string][]byte{}
	env := maps.Clone(r.Env)
	if w.Build.Fetch {
		fetching(env, files, os.Environ())
	}
	t, err := n.template(ctx, digest, id, asked{
		Process:   mayfly.Process{Env: env, User: buildUser, WorkDir: "/tmp"},
		Resources: mayfly.Resources{Memory: n.buildMemory(), CPUs: buildCPUs(), Pids: buildPids, Files: buildFiles},
		volatile:  true,
	})
	if err != nil {
		return nil, err
	}
	c := t.config
	c.LogMax, c.Files = buildLog, files
	c.Env = slices.DeleteFunc(c.Env, func(e string) bool { return strings.HasPrefix(e, "MAYFLY_HOST=") }) // it has no API
	c.Hostname = "build"
	attach := n.net.AttachNone
	if w.Build.Fetch {
		attach = func(ctx context.Context, id string) (*network.Attachment, error) {
			return n.net.Attach(ctx, id, nil, "build/"+id) // with nobody else
		}
		if c.Resolv, err = network.HostResolv(); err != nil {
			return nil, err
		}
	}
	a, err := attach(ctx, id)
	if err != nil {
		return nil, err
	}
	defer a.NetNS.Close()
	c.NetNS = a.NetNS
	if a.Address.IsValid() {
		c.Address = a.Address.String()
	}
	c.Hosts = network.Hosts(c.Hostname, a.Address)
	s, err := n.host.Create(ctx, id, c)
	if err != nil {
		n.released(context.WithoutCancel(ctx), []string{id})
		return nil, t.explain(id, err)
	}
	return s, nil
}

// buildCPUs leaves something of the machine to those who are served meanwhile.
func buildCPUs() float64 { return max(1, 0.75*float64(runtime.NumCPU())) }

// fetchVariables are those of the daemon's own that say where builds fetch from.
// They may have passwords in them, and are shown nowhere.
func fetchVariables() []string {
	return []string{
		"GOPROXY", "GOSUMDB", "GONOSUMDB", "GONOSUMCHECK", "GONOPROXY", "GOPRIVATE", "GOINSECURE", "GOFLAGS", "GOTOOLCHAIN",
		"NPM_CONFIG_REGISTRY", "npm_config_registry", "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_TRUSTED_HOST", "PIP_DEFAULT_TIMEOUT",
		"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "no_proxy", "all_proxy",
	}
}

// fetching gives a build what it takes to fetch: where from, and whom to trust,
// which is whom this machine trusts.
func fetching(env map[string]string, files map[string][]byte, ours []string) {
	known := fetchVariables()
	for _, e := range ours {
		if name, value, _ := strings.Cut(e, "="); slices.Contains(known, name) {
			env[name] = value
		}
	}
	certs, err := os.ReadFile("/etc/ssl/certs/ca-certificates.crt")
	if err != nil || len(certs) > 4<<20 {
		return
	}
	files[buildCerts] = certs
	for _, name := range []string{"SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS", "PIP_CERT", "REQUESTS_CA_BUNDLE", "NPM_CONFIG_CAFILE"} {
		env[name] = "/run/mayfly/" + buildCerts
	}
}

// lastWordsOf passes on the lines of a log, and keeps the last ones.
type lastWordsOf struct {
	each func(string)
	part []byte
	last []string
}

// take is for Sandbox.Attach.
func (l *lastWordsOf) take(e mayfly.LogEntry) error {
	l.part = append(l.part, e.Data...)
	for {
		i := slices.Index(l.part, '\n')
		if i < 0 {
			if len(l.part) > 64<<10 {
				l.line(l.part)
				l.part = l.part[:0]
			}
			return nil
		}
		l.line(l.part[:i])
		l.part = l.part[i+1:]
	}
}

func (l *lastWordsOf) end() {
	if len(l.part) > 0 {
		l.line(l.part)
	}
}

func (l *lastWordsOf) line(text []byte) {
	line := strings.TrimRight(string(text), "\r ")
	if line == "" {
		return
	}
	if len(line) > 2000 {
		line = line[:2000] + "..."
	}
	l.each("  " + line)
	if l.last = append(l.last, line); len(l.last) > 20 {
		l.last = l.last[1:]
	}
}

// trim removes the files of a folder that were of use the longest time ago, until
// the others take no more than so many bytes. The newest stays in any case.
func trim(dir string, bytes int64) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return // nothing there
	}
	var all []fs.FileInfo
	for _, e := range entries {
		if info, err := e.Info(); err == nil && !strings.HasPrefix(e.Name(), ".") {
			all = append(all, info)
		}
	}
	slices.SortFunc(all, func(a, b fs.FileInfo) int { return b.ModTime().Compare(a.ModTime()) })
	for i, info := range all {
		if bytes -= info.Size(); bytes < 0 && i > 0 {
			os.Remove(filepath.Join(dir, info.Name())) // what stays costs room and nothing else
		}
	}
}

// sweepParts removes what uploads and builds left that were killed with their
// daemon.
func (n *Node) sweepParts() {
	for _, pattern := range []string{"builds/" + partPrefix + "*", "code/" + partPrefix + "*", "code/upload-*"} {
		left, _ := filepath.Glob(filepath.Join(n.dir, pattern)) // the pattern is in order
		for _, name := range left {
			os.Remove(name)
		}
	}
}
