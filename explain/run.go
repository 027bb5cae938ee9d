package explain

import (
	"fmt"
	"strings"
	"time"

	"github.com/mayfly-run/mayfly"
)

// ended says how a program ended, after "it".
func ended(e mayfly.Exit) string {
	var text string
	switch e.Reason {
	case mayfly.Succeeded:
		text = "ended with 0"
	case mayfly.DeadlinePassed:
		text = "was killed when its time was over"
	case mayfly.OutOfMemory:
		text = "was killed because it wanted more memory than it may have"
	case mayfly.Cancelled:
		text = "was cancelled"
	case mayfly.Lost:
		text = "was lost: the machine stopped, or nothing was left of it when the daemon came back"
	case mayfly.Rejected:
		text = "was turned away, and never ran"
	default:
		text = failed(e)
	}
	if e.Detail != "" {
		text += " (" + strings.TrimSuffix(e.Detail, ".") + ")"
	}
	return text
}

func failed(e mayfly.Exit) string {
	switch {
	case e.Signal != 0:
		return fmt.Sprintf("was ended by signal %d", e.Signal)
	case e.Code == 126:
		return "could not be executed (exit code 126)"
	case e.Code == 127:
		return "has no such program (exit code 127)"
	case e.Code == 0:
		return "failed"
	default:
		return fmt.Sprintf("failed with exit code %d", e.Code)
	}
}

// mend is what helps after such an end.
func mend(e *mayfly.Exit, logs string) []string {
	if e == nil {
		return nil
	}
	switch e.Reason {
	case mayfly.Succeeded, mayfly.Cancelled:
		return nil
	case mayfly.OutOfMemory:
		return []string{"give it more memory: memory in the manifest, --memory with mayfly run"}
	case mayfly.DeadlinePassed:
		return []string{"give it more time: timeout in the manifest, --timeout otherwise", "see how far it came: " + logs}
	case mayfly.Rejected, mayfly.Lost:
		return []string{"send it again"}
	}
	return []string{"see what it wrote: " + logs}
}

// Function says how functions are: there is nothing to explain.
func Function(r mayfly.Release) mayfly.Explanation {
	w := r.Workload
	return mayfly.Explanation{
		Kind: "function", Name: w.Name, Space: w.Space, State: "deployed", Since: r.Created,
		Why:  []string{fmt.Sprintf("%s is a function: its containers come and go with its runs. Release %d is active.", w.Name, r.Number)},
		Help: []string{"see how its runs ended: mayfly runs " + w.Name, "and why one did: mayfly why RUN"},
	}
}

// Container says why a container is as it is.
func Container(in mayfly.Instance, now time.Time) mayfly.Explanation {
	x := mayfly.Explanation{Kind: "container", Name: in.Name, Space: in.Space, State: string(in.State), Since: in.Started}
	if x.Name == "" {
		x.Name = in.ID
	}
	switch {
	case in.State == mayfly.Exited && in.Exit != nil:
		x.Since = in.Exit.Time
		x.Why = []string{fmt.Sprintf("It %s, %s ago%s.", ended(*in.Exit), since(in.Exit.Time, now), after(in.Started, in.Exit.Time))}
		x.Help = mend(in.Exit, "mayfly logs "+x.Name)
	case in.State == mayfly.Running:
		x.Why = []string{fmt.Sprintf("It has been running for %s.", since(in.Started, now))}
	default:
		x.Why = []string{fmt.Sprintf("It was made %s ago, and is %s.", since(in.Created, now), in.State)}
	}
	if in.Workload != "" && in.Replica > 0 {
		x.Why = append(x.Why, fmt.Sprintf("It is replica %d of service %s, release %d.", in.Replica, in.Workload, in.Release))
		x.Help = append(x.Help, "how the service is: mayfly why "+in.Workload)
	}
	return x
}

func after(from, to time.Time) string {
	if from.IsZero() || to.Before(from) {
		return ""
	}
	return ", having run for " + span(to.Sub(from))
}

// Run says why a run ended as it did.
func Run(r mayfly.Run, now time.Time) mayfly.Explanation {
	x := mayfly.Explanation{Kind: "run", Name: r.ID, Space: r.Space, State: "running", Since: r.Started}
	first := fmt.Sprintf("It is a run of %s, release %d, begun %s ago by a %s.", r.Workload, r.Release, since(r.Started, now), r.Trigger)
	if r.Exit == nil {
		x.Why = []string{"It has not ended.", first}
		return x
	}
	x.State, x.Since = string(r.Exit.Reason), r.Exit.Time
	status := ""
	if r.Status != 0 {
		status = fmt.Sprintf(", and answered with status %d", r.Status)
	}
	x.Why = []string{fmt.Sprintf("It %s%s.", ended(*r.Exit), status), first,
		fmt.Sprintf("It waited %s for room and %s for a container, and ran for %s.", span(r.Queue), span(r.Sandbox), span(r.Handler))}
	if r.Moved > 0 {
		x.Why = append(x.Why, fmt.Sprintf("%s ended before it had answered; it was given to the next one.", sentence(count(r.Moved, "container"))))
	}
	x.Help = mend(r.Exit, "mayfly logs "+r.ID)
	return x
}

// Task says why a task is as it is.
func Task(t mayfly.Task, w mayfly.TaskWait, now time.Time) mayfly.Explanation {
	x := mayfly.Explanation{Kind: "task", Name: t.ID, Space: t.Space, State: string(t.State), Since: t.Ended}
	switch {
	case t.State == mayfly.TaskQueued:
		x.Since = t.Accepted
		x.Why = append(x.Why, sentence(waits(t, w, now))+".")
		x.Help = append(x.Help, unpause(t, w)...)
	case t.State == mayfly.TaskBuried:
		x.Why = append(x.Why, fmt.Sprintf("It was buried%s after %s: no retry is left, so it waits for a person.", agoOf(t.Ended, now), count(t.Attempt, "attempt")))
		x.Help = append(x.Help, "when that is mended: mayfly task retry "+t.ID)
	case t.State.Ended():
		x.Why = append(x.Why, fmt.Sprintf("It is %s%s, after %s.", t.State, agoOf(t.Ended, now), count(t.Attempt, "attempt")))
	default:
		x.Why = append(x.Why, fmt.Sprintf("Attempt %d is %s.", t.Attempt, t.State))
	}
	if t.Detail != "" {
		x.Why = append(x.Why, sentence(t.Detail)+".")
	}
	for _, a := range t.Attempts {
		if a.Exit != nil {
			x.Why = append(x.Why, fmt.Sprintf("Attempt %d on %s %s%s.", a.Number, a.Node, ended(*a.Exit), after(a.Started, a.Ended)))
		}
	}
	if n := len(t.Attempts); n > 0 {
		x.Help = append(x.Help, mend(t.Attempts[n-1].Exit, "mayfly task logs "+t.ID)...)
	}
	return x
}

// waits says what a queued task waits for, as a part of a sentence.
func waits(t mayfly.Task, w mayfly.TaskWait, now time.Time) string {
	switch {
	case len(t.After) > 0:
		return fmt.Sprintf("it waits for %s to succeed: %s", count(len(t.After), "task"), strings.Join(t.After, ", "))
	case t.NotBefore.After(now) && len(t.Attempts) > 0:
		return fmt.Sprintf("attempt %d failed; the next one begins in %s", len(t.Attempts), span(t.NotBefore.Sub(now)))
	case t.NotBefore.After(now):
		return fmt.Sprintf("its time has not come: it begins in %s", span(t.NotBefore.Sub(now)))
	}
	text := fmt.Sprintf("it was accepted %s ago and waits ", since(t.Accepted, now))
	switch {
	case w.Paused:
		return text + fmt.Sprintf("because the tasks of %s are paused", t.Workload)
	case w.Most > 0 && w.Running >= w.Most:
		return text + fmt.Sprintf("because as many tasks of %s run as may at once: %d", t.Workload, w.Running)
	case w.KeyMost > 0 && w.KeyRunning >= w.KeyMost && t.LimitMax > 0:
		return text + fmt.Sprintf("because as many deliveries of its mapping run as its concurrency allows: %d", w.KeyRunning)
	case w.KeyMost > 0 && w.KeyRunning >= w.KeyMost:
		return text + fmt.Sprintf("because as many tasks of %s with the same key run as may at once: %d", t.Workload, w.KeyRunning)
	case w.Rate:
		return text + fmt.Sprintf("because as many tasks of %s have started as its rate allows for now", t.Workload)
	}
	return text + "its turn, behind those before it, and for room on a node"
}

// unpause is what helps where a task is paused.
func unpause(t mayfly.Task, w mayfly.TaskWait) []string {
	if !w.Paused {
		return nil
	}
	return []string{"let them run: mayfly task resume " + t.Workload}
}

func agoOf(t, now time.Time) string {
	if t.IsZero() {
		return ""
	}
	return " " + since(t, now) + " ago"
}
