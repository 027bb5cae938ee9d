package api

import (
	"slices"
	"strings"

	client "github.com/mayfly-run/mayfly/sdk/go"
)

// InPage is the part of an operation's input that bounds a list.
type InPage struct {
	Limit int    `query:"limit" default:"100" minimum:"1" maximum:"1000" doc:"most items to give"`
	Next  string `query:"next" maxLength:"512" doc:"what the page before gave as next"`
}

// page returns the part of items that in asks for, in the order of their keys,
// or against it. The key of the last item is where the next page begins, so a
// list that changes meanwhile neither repeats nor skips what stays.
func page[T any](items []T, in InPage, descending bool, key func(T) string) client.Page[T] {
	compare := func(a, b string) int {
		if descending {
			a, b = b, a
		}
		return strings.Compare(a, b)
	}
	items = slices.Clone(items)
	slices.SortFunc(items, func(a, b T) int { return compare(key(a), key(b)) })
	if in.Next != "" {
		items = slices.DeleteFunc(items, func(item T) bool { return compare(key(item), in.Next) <= 0 })
	}
	if len(items) <= in.Limit {
		return client.Page[T]{Items: listOf(items)}
	}
	items = items[:in.Limit]
	return client.Page[T]{Items: items, Next: key(items[in.Limit-1])}
}

// listOf has a list without items be one in JSON too, and not null.
func listOf[T any](items []T) []T {
	if items == nil {
		return []T{}
	}
	return items
}
