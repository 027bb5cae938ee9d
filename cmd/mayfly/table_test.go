package main

import (
	"strings"
	"testing"
	"unicode/utf8"
)

// TestTablesFitTerminals says what goes, and in which order, where a table is
// wider than its terminal.
func TestTablesFitTerminals(t *testing.T) {
	rows := [][]string{
		{"NAME", "EMPTY", "IMAGE", "STATE", "REASON"},
		{"web", "", "registry.example.org/shop:2026.11", "waiting", "it requires db, which is not ready"},
		{"mailer", "", "mail", "ready", ""},
	}
	tests := []struct {
		width int
		want  string
	}{
		{200, `
NAME     EMPTY   IMAGE                               STATE     REASON
web              registry.example.org/shop:2026.11   waiting   it requires db, which is not ready
mailer           mail                                ready     `},
		{91, `
NAME    IMAGE                              STATE    REASON
web     registry.example.org/shop:2026.11  waiting  it requires db, which is not ready
mailer  mail                               ready    `},
		{75, `
NAME    IMAGE                              STATE    REASON
web     registry.example.org/shop:2026.11  waiting  it requires db, which
                                                    is not ready
mailer  mail                               ready    `},
		{60, `
NAME    STATE    REASON
web     waiting  it requires db, which is not ready
mailer  ready    `},
		{30, `
NAME    STATE    REASON
web     waiting  it requires
                 db, which is
                 not ready
mailer  ready    `},
	}
	for _, test := range tests {
		tab := table{gap: 3}
		for _, cells := range rows {
			tab.rows = append(tab.rows, append([]string{}, cells...))
		}
		tab.fit(test.width, []string{"IMAGE"})
		var b strings.Builder
		if err := tab.write(&b); err != nil {
			t.Fatal(err)
		}
		if got := "\n" + strings.TrimSuffix(b.String(), "\n"); got != test.want {
			t.Errorf("in %d columns:%s\nwant:%s", test.width, got, test.want)
		}
	}
}

// TestLongCellsAreShortened says which, where nothing else can go: the widest
// ones, and names that other verbs take last of all.
func TestLongCellsAreShortened(t *testing.T) {
	name := strings.Repeat("n", 20) + strings.Repeat("m", 20)
	tests := []struct {
		width int
		want  []string
	}{
		{120, []string{name, "http://example.org/checkout/7", "mail", "end"}},
		{69, []string{name, "http://exa…out/7", "mail", "end"}},
		{60, []string{strings.Repeat("n", 20) + "mmm…" + strings.Repeat("m", 11), "http://…ut/7", "mail", "end"}},
	}
	for _, test := range tests {
		tab := table{gap: 2, rows: [][]string{{"NAME", "URL", "BY", "S"}, {name, "http://example.org/checkout/7", "mail", "end"}}}
		tab.fit(test.width, nil)
		if got := tab.rows[1]; strings.Join(got, " ") != strings.Join(test.want, " ") {
			t.Errorf("in %d columns %q, want %q", test.width, got, test.want)
		}
	}
}

func TestFoldText(t *testing.T) {
	tests := []struct{ text, want string }{
		{"", ""},
		{"it waits", "it waits"},
		{"it waits for db", "it waits|for db"},
		{"éèêàçôéèêàçô", "éèêàçôéè|êàçô"},
		{"0123456789 12", "01234567|89 12"},
		{"a long text of which the end is left out", "a long|text of|which|the end…"},
	}
	for _, test := range tests {
		lines := foldText(test.text, 8)
		if got := strings.Join(lines, "|"); got != test.want {
			t.Errorf("%q is folded to %q, want %q", test.text, got, test.want)
		}
		for _, line := range lines {
			if utf8.RuneCountInString(line) > 8 {
				t.Errorf("%q has more than 8 characters", line)
			}
		}
	}
}
