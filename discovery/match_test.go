package discovery

import (
	"fmt"
	"strings"
	"testing"

	"github.com/mayfly-run/mayfly"
)

func TestMatch(t *testing.T) {
	db := mayfly.Endpoint{ID: "i.mysql", Space: "default", Service: "db", Name: "mysql", Role: "primary", Among: []string{"mysql", "metrics"}, Tags: map[string]string{"version": "10.11", "tier": "gold"}}
	metrics, alone := db, db
	metrics.Name, metrics.Role = "metrics", ""
	alone.Among = nil
	tags := func(key string, m mayfly.Match) mayfly.Require {
		return mayfly.Require{Service: "db", Tags: map[string]mayfly.Match{key: m}}
	}
	for _, test := range []struct {
		name string
		e    mayfly.Endpoint
		r    mayfly.Require
		want bool
	}{
		{"service", db, mayfly.Require{Service: "db"}, true},
		{"another service", db, mayfly.Require{Service: "web"}, false},
		{"another space", db, mayfly.Require{Service: "db", Space: "other"}, false},
		{"named space", db, mayfly.Require{Service: "db", Space: "default"}, true},
		{"role", db, mayfly.Require{Role: "primary"}, true},
		{"another role", db, mayfly.Require{Role: "replica"}, false},
		{"service and role", db, mayfly.Require{Service: "db", Role: "primary"}, true},
		{"service and another role", db, mayfly.Require{Service: "db", Role: "replica"}, false},
		{"port", metrics, mayfly.Require{Service: "db", Port: "metrics"}, true},
		{"another port", metrics, mayfly.Require{Service: "db", Port: "mysql"}, false},
		{"any port", metrics, mayfly.Require{Service: "db", Port: AnyPort}, true},
		{"not the first port", metrics, mayfly.Require{Name: "db", Service: "db"}, false},
		{"the port that the name says", metrics, mayfly.Require{Name: "metrics", Service: "db"}, true},
		{"not the port that the name says", db, mayfly.Require{Name: "metrics", Service: "db"}, false},
		{"the only port", alone, mayfly.Require{Name: "metrics", Service: "db"}, true},
		{"value", db, tags("tier", mayfly.Match{Value: "gold"}), true},
		{"another value", db, tags("tier", mayfly.Match{Value: "silver"}), false},
		{"no such tag", db, tags("zone", mayfly.Match{Value: "a"}), false},
		{"set", db, tags("tier", mayfly.Match{In: []string{"silver", "gold"}}), true},
		{"not in the set", db, tags("tier", mayfly.Match{In: []string{"silver"}}), false},
		{"pattern", db, tags("version", mayfly.Match{Pattern: `10\.\d+`}), true},
		{"a part is not enough", db, tags("version", mayfly.Match{Pattern: `10`}), false},
		{"nor one of two", db, tags("version", mayfly.Match{Pattern: `10|x`}), false},
		{"pattern without tag", db, tags("zone", mayfly.Match{Pattern: `.*`}), false},
	} {
		v := newView()
		v.set(test.e.ID, &test.e)
		sel, err := newSelector(Consumer{Space: "default"}, &test.r)
		if err != nil {
			t.Errorf("%s: %v", test.name, err)
			continue
		}
		if got := len(v.find(sel, Consumer{}, true)) == 1; got != test.want {
			t.Errorf("%s: %v, want %v", test.name, got, test.want)
		}
	}
}

func TestBadRequirements(t *testing.T) {
	pattern := func(p string) mayfly.Require {
		return mayfly.Require{Service: "db", Tags: map[string]mayfly.Match{"a": {Pattern: p}}}
	}
	for name, r := range map[string]mayfly.Require{
		"nothing":        {Name: "x"},
		"bad pattern":    pattern(`(`),
		"two halves":     pattern(`a)|(b`),
		"a long pattern": pattern(strings.Repeat("a", maxPattern+1)),
	} {
		if _, err := newSelector(Consumer{}, &r); mayfly.KindOf(err) != mayfly.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestTokens(t *testing.T) {
	for _, s := range []string{"abc", "i1.http", "host.example.org", "=", "ä*>. \x00", ""} {
		tok := token(s)
		if strings.ContainsAny(tok, ".*> \x00") {
			t.Errorf("%q: token %q", s, tok)
		}
		if back, err := untoken(tok); err != nil || back != s {
			t.Errorf("%q: back %q, %v", s, back, err)
		}
	}
	for _, s := range []string{"=", "=4", "=zz"} {
		if got, err := untoken(s); err == nil {
			t.Errorf("%q: got %q", s, got)
		}
	}
}

// TestOneIsChosen: consumers spread over what there is, each is given the same
// again, and what it had before a restart rather than any other.
func TestOneIsChosen(t *testing.T) {
	v := newView()
	for i := range 10 {
		e := endpoint("web", fmt.Sprint("e", i))
		v.set(e.ID, &e)
	}
	r := mayfly.Require{Service: "web"}
	choose := func(c Consumer) string {
		sel, err := newSelector(c, &r)
		if err != nil {
			t.Fatal(err)
		}
		return v.find(sel, c, false)[0].ID
	}
	count := map[string]int{}
	for i := range 1000 {
		c := Consumer{Space: "default", Instance: fmt.Sprint("c", i)}
		id := choose(c)
		count[id]++
		if again := choose(c); again != id {
			t.Errorf("%s: %s, and then %s", c.Instance, id, again)
		}
		if c.Has = []string{"gone", "e3"}; choose(c) != "e3" {
			t.Errorf("%s: not what it had", c.Instance)
		}
	}
	for i := range 10 {
		if n := count[fmt.Sprint("e", i)]; n < 50 || n > 150 {
			t.Errorf("e%d was chosen %d times of 1000: %v", i, n, count)
		}
	}
}
