package cesql_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/cesql"
)

// attributes of an event, in the types that YAML gives them.
type attributes map[string]any

func (a attributes) Attribute(name string) (any, bool) {
	switch v := a[name].(type) {
	case nil:
		return nil, false
	case uint64:
		return int32(v), true
	case int64:
		return int32(v), true
	case time.Time:
		return v.Format(time.RFC3339Nano), true
	default:
		return v, true
	}
}

// full is the event of those cases that name none.
func full() attributes {
	return attributes{
		"specversion": "1.0", "id": "full-event", "type": "com.example.FullEvent", "source": "/source", "subject": "topic",
		"time": "2020-03-21T12:34:56.78Z", "dataschema": "http://example.com/schema", "datacontenttype": "text/json",
		"exbool": true, "exint": int64(42), "exstring": "exstring",
	}
}

type suite struct {
	Name  string
	Tests []struct {
		Name, Expression, Error string
		Result                  any
		Event                   map[string]any
		EventOverrides          map[string]any `yaml:"eventOverrides"`
	}
}

// TestConformance runs the public conformance cases.
func TestConformance(t *testing.T) {
	files, err := filepath.Glob("testdata/tck/*.yaml")
	if err != nil || len(files) < 18 {
		t.Fatal(files, err)
	}
	kinds := map[string]error{"math": cesql.ErrMath, "cast": cesql.ErrCast, "missingAttribute": cesql.ErrMissing, "functionEvaluation": cesql.ErrFunction}
	count := 0
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var s suite
		if err := yaml.Unmarshal(data, &s); err != nil {
			t.Fatal(file, err)
		}
		for _, c := range s.Tests {
			count++
			t.Run(s.Name+"/"+c.Name, func(t *testing.T) {
				event := full()
				if c.Event != nil {
					event = attributes(c.Event)
				}
				for name, value := range c.EventOverrides {
					event[name] = value
				}
				e, err := cesql.Parse(c.Expression)
				if c.Error == "parse" || c.Error == "missingFunction" {
					if mayfly.KindOf(err) != mayfly.Invalid || !strings.Contains(err.Error(), "character") {
						t.Fatalf("%s is refused with %v", c.Expression, err)
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				got, err := e.Evaluate(event)
				want := c.Result
				switch v := want.(type) {
				case uint64:
					want = int32(v)
				case int64:
					want = int32(v)
				case time.Time:
					want = v.Format(time.RFC3339Nano)
				}
				if got != want || !errors.Is(err, kinds[c.Error]) {
					t.Errorf("%s = %#v, %v; want %#v, %s", c.Expression, got, err, want, c.Error)
				}
			})
		}
	}
	if count < 200 {
		t.Errorf("only %d cases", count)
	}
}

func TestBeyondTheSuite(t *testing.T) {
	for _, c := range []struct {
		text string
		want any
	}{
		{"-2147483648", int32(-1 << 31)},
		{"4 -1", int32(3)},
		{"10 - 3 - 2", int32(5)},
		{"LENGTH('dé')", int32(2)},
		{"LEFT('éa', 1)", "é"},
		{"'éa' LIKE '_a'", true},
		{"'a%' LIKE 'a\\%'", true},
		{"SUBSTRING('abc', 2, 2147483647)", "bc"},
		{"NOT FALSE AND TRUE", true},
		{"subject IN ('x', 'topic') AND type LIKE 'com.%'", true},
		{"TRUE OR FALSE AND FALSE", true},
		{"1 + 2 * 3 = 7", true},
	} {
		e, err := cesql.Parse(c.text)
		if err != nil {
			t.Error(err)
			continue
		}
		if got, err := e.Evaluate(full()); got != c.want || err != nil {
			t.Errorf("%s = %#v, %v; want %#v", c.text, got, err, c.want)
		}
	}
}

func TestErrorsSayWhere(t *testing.T) {
	for text, want := range map[string]string{
		"":                     "character 1: an attribute",
		"subject = ":           "character 11: an attribute",
		"a = 'b":               "character 5: the text that begins here has no end",
		"é = 1":                "character 1: 'é' has no meaning",
		"'é' = $":              "character 7: '$' has no meaning",
		"a LIKE b":             "character 8: LIKE is followed by a text",
		"a b":                  `character 3: "b" cannot follow here`,
		"a NOT b":              "character 7: LIKE or IN",
		"LENGTH(1, 2)":         "character 1: LENGTH does not take 2",
		"1 + NOPE(a)":          "character 5: there is no function NOPE",
		"a_b = 1":              "character 1",
		"a IN ()":              "character 7",
		"99999999999":          "character 1",
		"EXISTS 'a'":           "character 8: an attribute's name",
		"AND a":                `character 1: "AND" cannot stand here`,
		"(a":                   `character 3: ")" is expected`,
		"a = 1 AND":            "character 10",
		"SUBSTRING('a', 1, 2,": "character 21",
	} {
		_, err := cesql.Parse(text)
		if mayfly.KindOf(err) != mayfly.Invalid || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v; want %q", text, err, want)
		}
	}
	for _, deep := range []string{strings.Repeat("(", 1000), strings.Repeat("NOT ", 1000) + "a", strings.Repeat("a AND ", 600) + "a", strings.Repeat("- ", 1000)} {
		if _, err := cesql.Parse(deep); mayfly.KindOf(err) != mayfly.Invalid {
			t.Errorf("%.20s...: %v", deep, err)
		}
	}
}

// FuzzParse holds that no text makes the parser or the evaluation panic, and that
// an evaluation gives a value of the language.
func FuzzParse(f *testing.F) {
	for _, text := range []string{"a = 'b' AND NOT EXISTS c", "SUBSTRING(x, -1, 5) LIKE 'a%_\\%'", "1 % 0", "TRUE XOR 'x'", "ABS(-2147483648) / -1", "INT('9') IN (1, '9')", "\"a\\\"b\"", "-(-2147483648) / -1"} {
		f.Add(text, "12")
	}
	f.Fuzz(func(t *testing.T, text, value string) {
		e, err := cesql.Parse(text)
		if err != nil {
			if mayfly.KindOf(err) != mayfly.Invalid {
				t.Fatal(err)
			}
			return
		}
		got, _ := e.Evaluate(attributes{"a": value, "x": value, "id": "1"})
		switch got.(type) {
		case bool, int32, string:
		default:
			t.Fatalf("%q gives %T", text, got)
		}
		if again, err := cesql.Parse(e.String()); err != nil || again == nil {
			t.Fatal("it is not understood again")
		}
	})
}
