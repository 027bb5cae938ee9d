package api

import (
	"container/list"
	"context"
	"crypto/sha256"
	"encoding/json"
	"sync"
	"time"

	"github.com/mayfly-run/mayfly"
)

// Bounds of what is remembered for idempotency keys.
const (
	maxAnswers   = 1000
	answerTime   = 10 * time.Minute
	maxKeyLength = 255
)

// answers remembers what creating operations answered, by their key.
type answers struct {
	now func() time.Time

	mu    sync.Mutex
	byKey map[string]*answer
	order *list.List // of *answer, oldest first
}

type answer struct {
	key   string
	body  [sha256.Size]byte
	made  time.Time
	done  chan struct{} // closed when value is set or the attempt has failed
	value any           // nil when it has failed
	place *list.Element
}

func newAnswers() *answers {
	return &answers{now: time.Now, byKey: map[string]*answer{}, order: list.New()}
}

// once runs create, unless the key was used before with the same body: then it
// gives the first answer, waiting for it if need be. An empty key always runs.
func once[T any](ctx context.Context, a *answers, operation, space, key string, body any, create func() (T, error)) (T, error) {
	var none T
	if key == "" {
		return create()
	}
	if len(key) > maxKeyLength {
		return none, mayfly.Errorf(mayfly.Invalid, "the idempotency key is longer than %d bytes", maxKeyLength)
	}
	text, err := json.Marshal(body)
	if err != nil {
		return none, err
	}
	sum := sha256.Sum256(text)
	id := operation + "\x00" + space + "\x00" + key
	for {
		first, mine := a.claim(id, sum)
		if first.body != sum {
			return none, mayfly.Errorf(mayfly.Conflict, "the idempotency key %q was used for another request", key).
				WithHint("make a new key for each new request")
		}
		if mine {
			return fill(a, first, create)
		}
		select {
		case <-ctx.Done():
			return none, ctx.Err()
		case <-first.done:
		}
		if value, ok := first.value.(T); ok {
			return value, nil
		}
		// The first attempt failed and was dropped: ours may do better.
	}
}

// fill runs create for everyone who waits for the answer.
func fill[T any](a *answers, first *answer, create func() (T, error)) (value T, err error) {
	succeeded := false
	defer func() {
		if !succeeded { // create may have panicked
			a.drop(first)
		}
	}()
	if value, err = create(); err != nil {
		return value, err
	}
	succeeded = true
	first.value = value
	close(first.done)
	return value, nil
}

// claim returns the answer with that id and whether the caller is to fill it.
func (a *answers) claim(id string, sum [sha256.Size]byte) (*answer, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.now()
	for e := a.order.Front(); e != nil && (a.order.Len() >= maxAnswers || now.Sub(e.Value.(*answer).made) > answerTime); e = a.order.Front() {
		a.forget(e.Value.(*answer))
	}
	if found, ok := a.byKey[id]; ok {
		return found, false
	}
	made := &answer{key: id, body: sum, made: now, done: make(chan struct{})}
	made.place = a.order.PushBack(made)
	a.byKey[id] = made
	return made, true
}

func (a *answers) drop(failed *answer) {
	a.mu.Lock()
	a.forget(failed)
	a.mu.Unlock()
	close(failed.done)
}

// forget is called with the lock held. It is no matter whether the answer is
// still there.
func (a *answers) forget(old *answer) {
	if a.byKey[old.key] == old {
		delete(a.byKey, old.key)
	}
	a.order.Remove(old.place)
}
