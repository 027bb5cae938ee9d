package build

import (
	"embed"
	"maps"
	"slices"
	"strings"

	"github.com/mayfly-run/mayfly"
)

// The recipes, and the ways in which Go's Handle is called.
const (
	recipeGo  = "go"
	recipeNpm = "npm"
	recipePip = "pip"

	wrapHTTP  = "http"
	wrapEvent = "event"
)

//go:embed recipes
var recipeFiles embed.FS

// Recipe is how code is made ready to run: a program that reads the code as a tar
// from its standard input, writes what became of it as a tar to its standard
// output, and what a person should read to its standard error. It is run in a
// container of a stack with the tools for it (Stacks.EnsureTools), as anybody but
// root.
type Recipe struct {
	Argv []string
	Env  map[string]string
	Tool string   // the stack; empty for the one that the code will run on
	Adds []string // folders beneath AppDir that what runs finds programs in
	Vars map[string]string
}

// RecipeOf returns the recipe of a build that passes its Check.
func RecipeOf(b *mayfly.Build) (Recipe, error) {
	if err := b.Check(); err != nil {
		return Recipe{}, err
	}
	script, err := recipeFiles.ReadFile("recipes/" + b.Recipe + ".sh")
	if err != nil {
		return Recipe{}, mayfly.Errorf(mayfly.Internal, "read recipe %s: %w", b.Recipe, err)
	}
	common, err := recipeFiles.ReadFile("recipes/common.sh")
	if err != nil {
		return Recipe{}, mayfly.Errorf(mayfly.Internal, "read recipe %s: %w", b.Recipe, err)
	}
	r := Recipe{
		Argv: []string{"/bin/bash", "-c", string(common) + string(script), "mayfly-build"},
		Env:  map[string]string{"TARGET": b.Target, "LC_ALL": "C.UTF-8"},
	}
	switch b.Recipe {
	case recipeGo:
		r.Tool, r.Adds = "go", []string{goProgramDir}
		r.Env["PROGRAM"] = b.Program
		if b.Wrap != "" {
			wrapper, err := recipeFiles.ReadFile("recipes/" + b.Wrap + ".go.txt")
			if err != nil {
				return Recipe{}, mayfly.Errorf(mayfly.Internal, "read recipe %s: %w", b.Recipe, err)
			}
			r.Env["WRAPPER"] = string(wrapper)
		}
	case recipeNpm:
		r.Adds = []string{"node_modules/.bin"}
	case recipePip:
		r.Adds = []string{".mayfly/python/bin"}
		r.Vars = map[string]string{"PYTHONPATH": AppDir + "/.mayfly/python"}
	}
	return r, nil
}

// Steps are what the recipe of a build does first, which Needs says the files for, and
// what it does with the code and that, as Join puts them together; the second is nil
// where nothing is left to do.
func (r Recipe) Steps(b *mayfly.Build) (install Recipe, rest *Recipe) {
	if b.Recipe != recipeNpm || b.Target == "" {
		return r, nil
	}
	step := func(name string) Recipe {
		s := r
		s.Env = maps.Clone(r.Env)
		s.Env["STEP"] = name
		return s
	}
	second := step("build")
	return step("install"), &second
}

// Hash stands for all that the recipe makes of code, besides the code and the
// tools.
func (r Recipe) Hash() string {
	hash, err := hashOf(r)
	if err != nil {
		panic(err) // strings can be written as JSON
	}
	return hash
}

// environment lays what a recipe adds for the program over an image's.
func (r Recipe) environment(env []string) []string {
	out := make([]string, 0, len(env)+len(r.Vars)+1)
	search := "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	for _, e := range env {
		name, value, _ := strings.Cut(e, "=")
		if name == "PATH" {
			search = value
		} else if _, ours := r.Vars[name]; !ours {
			out = append(out, e)
		}
	}
	for _, dir := range slices.Backward(r.Adds) {
		search = AppDir + "/" + dir + ":" + search
	}
	out = append(out, "PATH="+search)
	for _, name := range sortedKeys(r.Vars) {
		out = append(out, name+"="+r.Vars[name])
	}
	return out
}
