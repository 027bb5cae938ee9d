package event

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/cesql"
)

// Bounds of a mapping.
const (
	maxFilters     = 32
	maxFilterText  = 1024
	maxConcurrency = 10_000
	maxRetries     = 100
)

// mapping is one that can be matched.
type mapping struct {
	mayfly.EventMapping
	fields []string // of the filter, sorted
	sql    *cesql.Expression
}

// Check returns an Invalid error unless a mapping can be kept. It does not look
// whether its function is there.
func Check(m mayfly.EventMapping) error {
	_, err := compile(m)
	return err
}

func compile(m mayfly.EventMapping) (*mapping, error) {
	invalid := func(format string, args ...any) *mayfly.Error { return mayfly.Errorf(mayfly.Invalid, format, args...) }
	switch {
	case m.Type == "":
		return nil, invalid("the type of the events is missing").WithHint("write * for all types")
	case len(m.Type) > maxFilterText || len(m.Source) > maxFilterText:
		return nil, invalid("the type or the source is longer than %d bytes", maxFilterText)
	case strings.Contains(strings.TrimSuffix(m.Type, "*"), "*"):
		return nil, invalid("type %.100q has a * that is not at its end", m.Type).WithHint("only a prefix can be wanted, as in photo.*")
	case strings.Contains(strings.TrimSuffix(m.Source, "*"), "*"):
		return nil, invalid("source %.100q has a * that is not at its end", m.Source)
	case len(m.Filter) > maxFilters:
		return nil, invalid("there are %d filters, and the limit is %d", len(m.Filter), maxFilters)
	case m.Concurrency < 0 || m.Concurrency > maxConcurrency:
		return nil, invalid("concurrency %d is not between 0 and %d", m.Concurrency, maxConcurrency)
	case m.Retries < -1 || m.Retries > maxRetries:
		return nil, invalid("%d retries are not between 0 and %d", m.Retries, maxRetries)
	}
	for name, value := range m.Filter {
		if err := checkField(name); err != nil {
			return nil, err
		}
		if len(value) > maxFilterText {
			return nil, invalid("the filter %s is longer than %d bytes", name, maxFilterText)
		}
	}
	if m.OrderBy != "" {
		if err := checkField(m.OrderBy); err != nil {
			return nil, err
		}
	}
	c := &mapping{EventMapping: m, fields: slices.Sorted(maps.Keys(m.Filter))}
	if m.SQL != "" {
		var err error
		if c.sql, err = cesql.Parse(m.SQL); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// checkField refuses what can name neither an attribute nor a field of the data.
func checkField(name string) error {
	if name == "" || len(name) > 256 || strings.ContainsAny(name, " \t\n\"'=<>()") || strings.Contains(name, "..") || strings.HasSuffix(name, ".") {
		return mayfly.Errorf(mayfly.Invalid, "%.80q can name neither an attribute nor a field of the data", name).
			WithHint("write subject, or data.user.id")
	}
	return nil
}

// wants reports whether a text is the pattern, or begins like it.
func wants(pattern, text string) bool {
	if prefix, many := strings.CutSuffix(pattern, "*"); many {
		return strings.HasPrefix(text, prefix)
	}
	return pattern == text
}

// matches reports whether the mapping gets an event.
func (m *mapping) matches(a *mayfly.AcceptedEvent) bool {
	return !m.tooNew(a) && !m.passedBy(a) && m.selects(&a.Event)
}

// tooNew reports whether an event was accepted before the mapping was there.
func (m *mapping) tooNew(a *mayfly.AcceptedEvent) bool { return a.Number <= m.Since }

// passedBy reports whether an event is replayed for another mapping alone.
func (m *mapping) passedBy(a *mayfly.AcceptedEvent) bool {
	return a.Replay != nil && a.Replay.Mapping != "" && a.Replay.Mapping != m.ID
}

func (m *mapping) selects(ev *mayfly.Event) bool { return m.mismatch(ev).of == ofNothing }

// mismatch is the first part of a mapping that does not select an event.
type mismatch struct {
	of    part
	field string // of the filter
	value string // of that field, in the event
	err   error  // why the expression cannot be evaluated
}

type part int

const (
	ofNothing part = iota // it selects the event
	ofType
	ofSource
	ofAbsent // a field that the event does not have
	ofField
	ofExpression
)

// mismatch looks at what is cheap first.
func (m *mapping) mismatch(ev *mayfly.Event) mismatch {
	if !m.wantsType(ev.Type) {
		return mismatch{of: ofType}
	}
	if m.Source != "" && !wants(m.Source, ev.Source) {
		return mismatch{of: ofSource}
	}
	for _, name := range m.fields {
		switch value, there := field(ev, name); {
		case !there:
			return mismatch{of: ofAbsent, field: name}
		case value != m.Filter[name]:
			return mismatch{of: ofField, field: name, value: value}
		}
	}
	if m.sql != nil {
		if is, err := m.sql.Matches(attributes{ev}); !is || err != nil {
			return mismatch{of: ofExpression, err: err}
		}
	}
	return mismatch{}
}

// wantsType reports whether the mapping wants events of a type. Those of the platform
// go only to who names them.
func (m *mapping) wantsType(eventType string) bool {
	return wants(m.Type, eventType) && (isPlatform(m.Type) || !isPlatform(eventType))
}

// attributes are those of an event, for an expression.
type attributes struct{ *mayfly.Event }

func (a attributes) Attribute(name string) (any, bool) {
	value, there := a.Event.Attribute(name)
	return value, there
}

// field is the value of an attribute, or else of a field of JSON data: its text,
// or its JSON where it is none. Where the name begins with "data." it is a field.
func field(ev *mayfly.Event, name string) (string, bool) {
	path, inData := strings.CutPrefix(name, "data.")
	if !inData {
		if value, there := ev.Attribute(name); there {
			return value, true
		}
	}
	if !ev.JSONData() {
		return "", false
	}
	rest := json.RawMessage(ev.Data)
	for _, part := range strings.Split(path, ".") {
		var object map[string]json.RawMessage
		if json.Unmarshal(rest, &object) != nil {
			return "", false
		}
		var there bool
		if rest, there = object[part]; !there {
			return "", false
		}
	}
	var text string
	switch {
	case len(rest) == 0 || string(rest) == "null":
		return "", false
	case rest[0] == '"':
		return text, json.Unmarshal(rest, &text) == nil
	}
	return string(rest), true
}

// lined reports whether the mapping has a line of its own.
func (m *mapping) lined() bool { return m.OrderBy != "" || m.URL != "" }

// mappings are those of all spaces, as of a moment.
type mappings struct {
	deployed, written uint64 // revisions that they are of
	spaces            map[string]*spaceMappings
	byID              map[string]*mapping
	platform          bool // somebody wants an event of the platform
}

// spaceMappings finds those that may want an event.
type spaceMappings struct {
	exact map[string][]*mapping // by type
	wild  []*mapping
}

func (s *spaceMappings) add(m *mapping) {
	if strings.HasSuffix(m.Type, "*") {
		s.wild = append(s.wild, m)
	} else {
		s.exact[m.Type] = append(s.exact[m.Type], m)
	}
}

// matching calls each with the mappings that select an event.
func (l *mappings) matching(a *mayfly.AcceptedEvent, each func(*mapping)) {
	s := l.spaces[a.Space]
	if s == nil {
		return
	}
	for _, list := range [][]*mapping{s.exact[a.Event.Type], s.wild} {
		for _, m := range list {
			if m.matches(a) {
				each(m)
			}
		}
	}
}

// current returns the mappings as they are on record now.
func (e *Events) current() *mappings {
	snap := e.store.Snapshot()
	written := e.store.EventMappings.Revision()
	e.mu.Lock()
	defer e.mu.Unlock()
	if l := e.all; l != nil && l.deployed >= snap.Deployed && l.written >= written {
		return l
	}
	l := &mappings{deployed: snap.Deployed, written: written, spaces: map[string]*spaceMappings{}, byID: map[string]*mapping{}}
	add := func(m mayfly.EventMapping) {
		c, err := compile(m)
		if err != nil {
			e.log.Error("a mapping of events is passed over", "space", m.Space, "id", m.ID, "error", err)
			return
		}
		s := l.spaces[m.Space]
		if s == nil {
			s = &spaceMappings{exact: map[string][]*mapping{}}
			l.spaces[m.Space] = s
		}
		s.add(c)
		l.byID[m.ID] = c
		l.platform = l.platform || isPlatform(m.Type)
	}
	for _, rec := range e.store.EventMappings.List("") {
		add(rec.Value)
	}
	for _, w := range snap.Workloads {
		for _, m := range ManifestMappings(&w.Workload) {
			add(m)
		}
	}
	e.all = l
	return l
}

// ManifestMappings are those that a workload's manifest says, whole.
func ManifestMappings(w *mayfly.Workload) []mayfly.EventMapping {
	list := make([]mayfly.EventMapping, len(w.Events))
	for i, m := range w.Events {
		m.Space, m.Workload, m.URL, m.Manifest = w.Space, w.Name, "", true
		m.ID = mappingID(&m)
		list[i] = m
	}
	return list
}

// mappingID stands for what a manifest's mapping selects, and stays when its
// workload is deployed again.
func mappingID(m *mayfly.EventMapping) string {
	texts := []string{"mapping", m.Space, m.Workload, m.Type, m.Source, m.SQL, m.OrderBy}
	for _, name := range slices.Sorted(maps.Keys(m.Filter)) {
		texts = append(texts, name, m.Filter[name])
	}
	return mayfly.IDOf(texts...)
}
