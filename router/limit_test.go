package router

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mayfly-run/mayfly"
)

func TestLimitIsNeverExceeded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l limit
		var now, most atomic.Int32
		var all sync.WaitGroup
		for range 50 {
			all.Go(func() {
				if err := l.acquire(context.Background(), 3, 100); err != nil {
					t.Error(err)
					return
				}
				n := now.Add(1)
				for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
				}
				time.Sleep(time.Second)
				now.Add(-1)
				l.release()
			})
		}
		all.Wait()
		if most.Load() != 3 {
			t.Errorf("%d at once, not 3", most.Load())
		}
	})
}

func TestLimitRefusesWhenTheQueueIsFull(t *testing.T) {
	var l limit
	if err := l.acquire(t.Context(), 1, 0); err != nil {
		t.Fatal(err)
	}
	if err := l.acquire(t.Context(), 1, 0); mayfly.KindOf(err) != mayfly.Busy {
		t.Errorf("got %v", err)
	}
	l.release()
	if err := l.acquire(t.Context(), 1, 0); err != nil {
		t.Errorf("after a release: %v", err)
	}
}

func TestLimitForgetsWhoLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l limit
		l.acquire(context.Background(), 1, 10)
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if err := l.acquire(ctx, 1, 10); err == nil {
			t.Error("a second got in")
		}
		l.release()
		if err := l.acquire(context.Background(), 1, 10); err != nil {
			t.Error(err)
		}
	})
}

func TestLimitCanBeRaisedWhileOthersWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l limit
		l.acquire(context.Background(), 1, 10)
		got := make(chan error, 1)
		go func() { got <- l.acquire(context.Background(), 1, 10) }()
		synctest.Wait()
		if err := l.acquire(context.Background(), 0, 10); err != nil {
			t.Error(err)
		}
		if err := <-got; err != nil {
			t.Error(err)
		}
	})
}
