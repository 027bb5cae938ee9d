package queue

import "github.com/mayfly-run/mayfly"

// TaskID is the id of the task that was submitted for a workload under a key.
func TaskID(space, workload, key string) string { return keyID(space, queueName(workload), key) }

// Waits tells what a task whose time has come may wait for, as of now.
func (q *Queue) Waits(task mayfly.Task) mayfly.TaskWait {
	q.mu.Lock()
	defer q.mu.Unlock()
	f := q.flows[flowKey{task.Space, queueOf(task)}]
	if f == nil {
		return mayfly.TaskWait{}
	}
	w := mayfly.TaskWait{Paused: f.paused, Running: f.granted, Most: f.limits.concurrency, Rate: f.limits.rate > 0 && f.bucket.timed}
	if task.LimitKey != "" {
		w.KeyRunning, w.KeyMost = f.keys[task.LimitKey], f.mostOf(task.LimitMax)
	}
	return w
}
