package queue

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/bus"
)

// A task is kept as its JSON and its payload, or what it returned when it has
// ended: as a record of a journal, or in parked as a message whose header the
// JSON is.
const (
	taskHeader  = "Mayfly-Task"
	maxRecord   = 48 << 10 // bytes of JSON; the server takes 64 kB of headers
	maxAttempts = 16       // kept in a record
	maxDetail   = 512      // bytes of what an exit says
	imageQueue  = "_image" // stands for the workload of tasks that have none
)

// marshal fails when the JSON of a task is too long.
func marshal(task mayfly.Task) ([]byte, error) {
	text, err := json.Marshal(task)
	if err != nil {
		return nil, fmt.Errorf("encode task %s: %w", task.ID, err)
	}
	if len(text) > maxRecord {
		return nil, mayfly.Errorf(mayfly.TooLarge, "the arguments, labels and ids of the task have %d bytes, and the limit is %d", len(text), maxRecord).
			WithHint("move what is long into the payload")
	}
	return text, nil
}

// unmarshal reads a task, of which every field may be forged, from where its name
// ends with its id.
func unmarshal(text []byte, from string) (mayfly.Task, error) {
	var task mayfly.Task
	if len(text) > maxRecord {
		return task, fmt.Errorf("read %s: the record has %d bytes", from, len(text))
	}
	if err := json.Unmarshal(text, &task); err != nil {
		return task, fmt.Errorf("read %s: %w", from, err)
	}
	if !idPattern.MatchString(task.ID) || !strings.HasSuffix(from, "."+task.ID) {
		return task, fmt.Errorf("read %s: it holds the record of %.40q", from, task.ID)
	}
	if task.Priority < 0 || task.Priority > mayfly.MaxPriority || task.Attempt < 1 || task.Size < 0 || len(task.Attempts) > maxAttempts || len(task.LimitKey) > maxLimitKey {
		return task, fmt.Errorf("read %s: the record is out of bounds", from)
	}
	return task, nil
}

// parkedMessage makes a message of a task.
func parkedMessage(subject string, task mayfly.Task, data []byte) (*nats.Msg, error) {
	text, err := marshal(task)
	if err != nil {
		return nil, err
	}
	return &nats.Msg{Subject: subject, Header: nats.Header{taskHeader: {string(text)}}, Data: data}, nil
}

// readParked is the task of a message of parked.
func readParked(msg bus.Message) (mayfly.Task, error) {
	return unmarshal([]byte(msg.Header.Get(taskHeader)), msg.Subject)
}

// journalRecord makes a record of a task. Its label says which lane it is of.
func journalRecord(task mayfly.Task, data []byte) (bus.Record, error) {
	text, err := marshal(task)
	return bus.Record{Key: entryKey(task.Space, task.ID), Label: laneLabel(task), Head: text, Data: data}, err
}

// readRecord is the task of a journal's record.
func readRecord(rec bus.Record) (mayfly.Task, error) {
	task, err := unmarshal(rec.Head, rec.Key)
	if err == nil && rec.Key != entryKey(task.Space, task.ID) {
		err = fmt.Errorf("read %s: it holds the record of space %.40q", rec.Key, task.Space)
	}
	return task, err
}

func laneLabel(t mayfly.Task) string { return queueOf(t) + "." + strconv.Itoa(t.Priority) }

// parseLabel reads a label and a key.
func parseLabel(p bus.Place) (key flowKey, priority int, ok bool) {
	space, _, ok1 := strings.Cut(p.Key, ".")
	queue, rest, ok2 := strings.Cut(p.Label, ".")
	priority, err := strconv.Atoi(rest)
	return flowKey{space, queue}, priority, ok1 && ok2 && err == nil && priority >= 0 && priority <= mayfly.MaxPriority
}

var idPattern = regexp.MustCompile(`^[0-9a-hj-km-np-tv-z]{20}$`)

// keyID is the id of the task with an idempotency key: the same for the same
// key of a workload in a space.
func keyID(space, queue, key string) string { return mayfly.IDOf(space, queue, key) }

// digest tells payloads apart.
func digest(payload []byte) string {
	sum := sha256.Sum256(payload)
	return hex.EncodeToString(sum[:16])
}

// queueOf is the name of the queue that a task waits in.
func queueOf(task mayfly.Task) string {
	if task.Workload == "" {
		return imageQueue
	}
	return task.Workload
}

func laterSubject(t mayfly.Task) string {
	return bus.LaterSubject(t.Space, minuteOf(t.NotBefore), queueOf(t), strconv.Itoa(t.Priority), t.ID)
}

func heldSubject(t mayfly.Task, parent string) string {
	return bus.HeldSubject(t.Space, parent, queueOf(t), strconv.Itoa(t.Priority), t.ID)
}

func deadSubject(t mayfly.Task) string { return bus.DeadSubject(t.Space, queueOf(t), t.ID) }

// minuteOf is the minute of a time as it stands in subjects.
func minuteOf(t time.Time) string { return strconv.FormatInt(t.Unix()/60, 10) }

// addAttempt adds a finished attempt to the history, dropping the oldest.
func addAttempt(task *mayfly.Task, a mayfly.Attempt) {
	if a.Exit != nil && len(a.Exit.Detail) > maxDetail {
		exit := *a.Exit
		exit.Detail = cut(exit.Detail, maxDetail)
		a.Exit = &exit
	}
	list := append(task.Attempts[:len(task.Attempts):len(task.Attempts)], a)
	if over := len(list) - maxAttempts; over > 0 {
		list = list[over:]
	}
	task.Attempts = list
}
