package queue

import (
	"errors"
	"fmt"

	"github.com/mayfly-run/mayfly"
)

// Numbered says which of count submissions an error is about: the one with index
// i, which is counted from 1 for people. One that is alone needs no number.
func Numbered(err error, i, count int) error {
	if count == 1 || err == nil {
		return err
	}
	prefix := fmt.Sprintf("task %d of %d: ", i+1, count)
	var e *mayfly.Error
	if !errors.As(err, &e) {
		return fmt.Errorf("%s%w", prefix, err)
	}
	same := *e
	if same.Text != "" {
		same.Text = prefix + same.Text
	} else {
		same.Err = fmt.Errorf("%s%w", prefix, same.Err)
	}
	return &same
}
