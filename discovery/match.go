package discovery

import (
	"cmp"
	"fmt"
	"hash/fnv"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/mayfly-run/mayfly"
)

// AnyPort as the Port of a mayfly.Require asks for every port.
const AnyPort = "*"

// maxPattern is the limit of a regular expression, in bytes.
const maxPattern = 1024

// bucketKey names those endpoints, of one service or of one role in a space, among
// which a requirement chooses.
type bucketKey struct {
	space string
	role  bool // name is a role, not a service
	name  string
}

// keysOf are the buckets that an endpoint is in.
func keysOf(e *mayfly.Endpoint) []bucketKey {
	keys := []bucketKey{{e.Space, false, e.Service}}
	if e.Role != "" {
		keys = append(keys, bucketKey{e.Space, true, e.Role})
	}
	return keys
}

// selector is a requirement made ready to be matched.
type selector struct {
	bucket bucketKey
	id     string // two that select the same have the same

	role string // "" for any
	port string // "" for any
	main string // where port is empty and this is not: the port of this name, else the first
	tags []tagMatch
	zone string // preferred; "" for none
}

type tagMatch struct {
	key     string
	value   string
	in      []string       // nil unless set
	pattern *regexp.Regexp // nil unless set
}

// newSelector returns an Invalid error for what can match nothing.
func newSelector(c Consumer, r *mayfly.Require) (*selector, error) {
	s := &selector{role: r.Role}
	space := cmp.Or(r.Space, c.Space)
	switch {
	case r.Service != "":
		s.bucket = bucketKey{space, false, r.Service}
	case r.Role != "":
		s.bucket = bucketKey{space, true, r.Role}
	default:
		return nil, mayfly.Errorf(mayfly.Invalid, "requirement %q names neither a service nor a role", r.Name)
	}
	switch {
	case r.Port == AnyPort:
	case r.Port != "":
		s.port = r.Port
	case r.Role == "":
		s.main = cmp.Or(r.Name, r.Service)
	}
	if r.SameZone {
		s.zone = c.Zone
	}
	for _, key := range slices.Sorted(maps.Keys(r.Tags)) {
		m := r.Tags[key]
		tag := tagMatch{key: key, value: m.Value, in: m.In}
		if m.Pattern != "" {
			var err error
			if tag.pattern, err = compile(m.Pattern); err != nil {
				return nil, mayfly.Errorf(mayfly.Invalid, "requirement %q: the pattern of tag %q: %w", r.Name, key, err)
			}
		}
		s.tags = append(s.tags, tag)
	}
	s.id = s.describe()
	return s, nil
}

// Matcher returns what says whether an endpoint is as a requirement asks, of
// whatever space, and of any service and role where it names none. The error is of
// the kind Invalid.
func Matcher(r mayfly.Require) (func(*mayfly.Endpoint) bool, error) {
	any := r.Service == "" && r.Role == ""
	if any {
		r.Service = "any"
	}
	r.Port = cmp.Or(r.Port, AnyPort)
	sel, err := newSelector(Consumer{}, &r)
	if err != nil {
		return nil, err
	}
	return func(e *mayfly.Endpoint) bool {
		return (any || r.Service == "" || e.Service == r.Service) && sel.matches(e)
	}, nil
}

// compile makes a pattern match whole values only.
func compile(pattern string) (*regexp.Regexp, error) {
	if len(pattern) > maxPattern {
		return nil, fmt.Errorf("it has %d bytes, and the limit is %d", len(pattern), maxPattern)
	}
	if _, err := regexp.Compile(pattern); err != nil { // as "a)|(b" would be one when it is wrapped
		return nil, err
	}
	return regexp.Compile(`^(?:` + pattern + `)$`)
}

func (s *selector) describe() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%q %q %q %q", s.role, s.port, s.main, s.zone)
	for _, t := range s.tags {
		switch {
		case t.pattern != nil:
			fmt.Fprintf(&b, " %q~%q", t.key, t.pattern)
		case t.in != nil:
			fmt.Fprintf(&b, " %q:%q", t.key, t.in)
		default:
			fmt.Fprintf(&b, " %q=%q", t.key, t.value)
		}
	}
	return b.String()
}

// matches decides by the endpoint alone, and not by what else is there, so that
// a port that is not ready does not make another one the only one.
func (s *selector) matches(e *mayfly.Endpoint) bool {
	if s.role != "" && e.Role != s.role || s.port != "" && e.Name != s.port {
		return false
	}
	if s.main != "" && len(e.Among) > 0 {
		want := e.Among[0]
		if slices.Contains(e.Among, s.main) {
			want = s.main
		}
		if e.Name != want {
			return false
		}
	}
	for i := range s.tags {
		if !s.tags[i].matches(e.Tags) {
			return false
		}
	}
	return true
}

func (t *tagMatch) matches(tags map[string]string) bool {
	value, ok := tags[t.key]
	switch {
	case t.pattern != nil:
		return ok && t.pattern.MatchString(value)
	case t.in != nil:
		return ok && slices.Contains(t.in, value)
	default:
		return value == t.value
	}
}

// order is that in which endpoints are listed, and numbered.
func order(a, b *mayfly.Endpoint) int {
	return cmp.Or(cmp.Compare(a.Service, b.Service), cmp.Compare(a.Replica, b.Replica), cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID))
}

// same reports whether two endpoints are alike to whoever uses them. Since is not
// compared: a node that was started again may not know it any more.
func same(a, b *mayfly.Endpoint) bool {
	return a.ID == b.ID && a.Space == b.Space && a.Service == b.Service && a.Name == b.Name && a.App == b.App &&
		a.Role == b.Role && a.Protocol == b.Protocol && a.Address == b.Address && a.Port == b.Port &&
		a.Node == b.Node && a.Zone == b.Zone && a.Instance == b.Instance && a.Replica == b.Replica &&
		a.Release == b.Release && a.Outside == b.Outside && maps.Equal(a.Tags, b.Tags) && slices.Equal(a.Among, b.Among)
}

// score says how much a consumer is drawn to an endpoint, the same each time and
// different for each pair.
func score(consumer, endpoint uint64) uint64 {
	x := consumer ^ endpoint
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	x *= 0xc4ceb9fe1a85ec53
	return x ^ x>>33
}

func hash(s string) uint64 {
	h := fnv.New64a()
	h.Write([]byte(s))
	return h.Sum64()
}
