package main

import (
	"bytes"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"github.com/mayfly-run/mayfly/container/wire"
)

// taken is what parse found, copied.
func taken(l *launch) wire.Program {
	p := wire.Program{Dir: string(l.dir), Stdin: l.stdio[0], Stdout: l.stdio[1], Stderr: l.stdio[2], Label: l.label}
	if l.other {
		p.As = &wire.User{UID: l.uid, GID: l.gid, Groups: slices.Clone(l.groups[:l.ngroups])}
	}
	p.Argv = texts(l.pointers[:l.env])
	p.Env = texts(l.pointers[l.env:])
	return p
}

// texts reads strings that end with NUL until the pointer 0.
func texts(pointers []uintptr) []string {
	var list []string
	for i := range pointers {
		if pointers[i] == 0 {
			break
		}
		s := unsafe.Slice(*(**byte)(unsafe.Pointer(&pointers[i])), 1<<20)
		list = append(list, string(s[:bytes.IndexByte(s, 0)]))
	}
	return list
}

func same(a, b wire.Program) bool {
	return slices.Equal(a.Argv, b.Argv) && slices.Equal(a.Env, b.Env) && a.Dir == b.Dir &&
		a.Stdin == b.Stdin && a.Stdout == b.Stdout && a.Stderr == b.Stderr && a.Label == b.Label && reflect.DeepEqual(a.As, b.As)
}

// room puts memory behind a body, for texts reads on until a NUL.
func room(body []byte) []byte { return slices.Grow(body, 1<<20+8) }

func TestProgramIsReadInPlace(t *testing.T) {
	for name, p := range map[string]wire.Program{
		"all":       {Argv: []string{"sh", "-c", "exit 3"}, Env: []string{"A=1", "PATH=/x:/y"}, Dir: "/tmp", Stdin: wire.Passed, Stdout: wire.Log, Stderr: wire.Null, Label: wire.MaxLabel},
		"a user":    {Argv: []string{"a"}, As: &wire.User{UID: 7, GID: 8, Groups: []uint32{9, 1 << 30}}},
		"least":     {Argv: []string{"a"}},
		"empty":     {Argv: []string{"", "", "ü b"}, Env: []string{""}, Stderr: wire.Passed},
		"very many": {Argv: append([]string{"x"}, slices.Repeat([]string{"y", ""}, 5000)...), Env: []string{"A=" + strings.Repeat("z", 100_000)}, Dir: "/"},
	} {
		t.Run(name, func(t *testing.T) {
			var l launch
			defer l.release()
			if ok, errno := l.parse(room(p.Append(nil))); !ok || errno != 0 {
				t.Fatalf("refused: %v, %v", ok, errno)
			}
			if have := taken(&l); !same(have, p) {
				t.Errorf("%+v came back as %+v", p, have)
			}
			if string(l.name) != p.Argv[0] {
				t.Errorf("name %q", l.name)
			}
			want, set := "", false
			for _, e := range p.Env {
				if v, ok := strings.CutPrefix(e, "PATH="); ok {
					want, set = v, true
				}
			}
			if string(l.path) != want || set != (l.path != nil) {
				t.Errorf("path %q", l.path)
			}
		})
	}
}

func TestProgramsThatAreRefused(t *testing.T) {
	good := wire.Program{Argv: []string{"sh", "-c"}, Env: []string{"A=1"}, Dir: "/tmp", Stdout: wire.Log}.Append(nil)
	var l launch
	withoutLabel := len(good) - 1 // as a daemon of version 1 sends it
	if ok, errno := l.parse(slices.Clone(good[:withoutLabel])); !ok || errno != 0 || l.label != 0 {
		t.Errorf("a program of version 1: %v, %v", ok, errno)
	}
	for n := range withoutLabel {
		if ok, _ := l.parse(slices.Clone(good[:n])); ok {
			t.Errorf("a program cut after %d bytes was taken", n)
		}
	}
	for name, body := range map[string][]byte{
		"no argv":             wire.Program{}.Append(nil),
		"a list of 4 billion": []byte("\xff\xff\xff\xff"),
		"many groups":         wire.Program{Argv: []string{"a"}, As: &wire.User{Groups: make([]uint32, wire.MaxGroups+1)}}.Append(nil),
		"half a user":         wire.Program{Argv: []string{"a"}, As: &wire.User{Groups: []uint32{1}}}.Append(nil)[:22],
		"an unknown label":    wire.Program{Argv: []string{"a"}, Label: wire.MaxLabel + 1}.Append(nil),
		"an unknown stream":   wire.Program{Argv: []string{"a"}, Stdin: wire.Passed + 1}.Append(nil),
	} {
		if ok, _ := l.parse(body); ok {
			t.Errorf("%s was taken", name)
		}
	}
	if ok, errno := l.parse(wire.Program{Argv: []string{"a\x00b"}}.Append(nil)); !ok || errno != syscall.EINVAL {
		t.Errorf("a NUL in a string: %v, %v", ok, errno)
	}
}

// FuzzProgram: no body makes init read beyond it, and what it reads is what
// was meant.
func FuzzProgram(f *testing.F) {
	f.Add(wire.Program{Argv: []string{"sh"}, Env: []string{"A=b"}, Dir: "/"}.Append(nil))
	f.Add(wire.Program{Argv: []string{"sh"}, Label: 3}.Append(nil))
	f.Add(wire.Program{Argv: []string{"sh"}, As: &wire.User{UID: 1, GID: 2, Groups: []uint32{3}}}.Append(nil))
	f.Add(wire.Program{Argv: []string{"", "x"}, Stdin: wire.Passed}.Append(nil))
	f.Fuzz(func(t *testing.T, body []byte) {
		var l launch
		defer l.release()
		ok, errno := l.parse(room(bytes.Clone(body)))
		if !ok || errno != 0 {
			return
		}
		p := taken(&l)
		whole := p.Append(nil)
		if len(body) == len(whole)-1 {
			whole = whole[:len(body)]
		}
		if len(whole) > len(body) || !bytes.Equal(whole, body[:len(whole)]) {
			t.Fatalf("%q was read as %+v", body, p)
		}
	})
}
