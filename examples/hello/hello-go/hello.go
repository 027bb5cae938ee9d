// Package hello greets whom its event names.
package hello

import "context"

type Event struct{ Name string }

func Handle(ctx context.Context, e Event) (map[string]string, error) {
	if e.Name == "" {
		e.Name = "world"
	}
	return map[string]string{"hello": e.Name}, nil
}
