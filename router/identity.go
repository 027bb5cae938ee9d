package router

import "github.com/mayfly-run/mayfly/container"

// A run's identity reaches the program in the environment where a program is
// started for the run, in headers where it had been started before, and in
// /run/mayfly/run.json where the container serves no other run.

func (x *run) identity() container.Run {
	r := container.Run{
		ID: x.record.ID, Attempt: x.attempt, Workload: x.record.Workload, Space: x.record.Space,
		Release: x.record.Release, Task: x.record.Trigger == triggerQueue,
	}
	r.SetDeadline(x.deadline)
	return r
}
