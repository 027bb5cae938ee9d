package queue

import (
	"crypto/sha256"
	"encoding/base32"
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

// Every message is one task: its record is in the header, and the data is the
// payload, or what it returned when it has ended.
const (
	taskHeader  = "Mayfly-Task"
	maxRecord   = 48 << 10 // bytes of JSON; the server takes 64 kB of headers
	maxAttempts = 16       // kept in a record
	maxDetail   = 512      // bytes of what an exit says
	imageQueue  = "_image" // stands for the workload of tasks that have none
)

// encode makes a message of a task. It fails when the record is too long.
func encode(subject string, task mayfly.Task, data []byte) (*nats.Msg, error) {
	text, err := json.Marshal(task)
	if err != nil {
		return nil, fmt.Errorf("encode task %s: %w", task.ID, err)
	}
	if len(text) > maxRecord {
		return nil, mayfly.Errorf(mayfly.TooLarge, "the arguments, labels and ids of the task have %d bytes, and the limit is %d", len(text), maxRecord).
			WithHint("move what is long into the payload")
	}
	return &nats.Msg{Subject: subject, Header: nats.Header{taskHeader: {string(text)}}, Data: data}, nil
}

// decode reads the task of a message, of which every field may be forged.
func decode(msg bus.Message) (mayfly.Task, error) {
	var task mayfly.Task
	text := msg.Header.Get(taskHeader)
	if len(text) > maxRecord {
		return task, fmt.Errorf("read %s: the record has %d bytes", msg.Subject, len(text))
	}
	if err := json.Unmarshal([]byte(text), &task); err != nil {
		return task, fmt.Errorf("read %s: %w", msg.Subject, err)
	}
	if !idPattern.MatchString(task.ID) || !strings.HasSuffix(msg.Subject, "."+task.ID) {
		return task, fmt.Errorf("read %s: it holds the record of %.40q", msg.Subject, task.ID)
	}
	if task.Priority < 0 || task.Priority > mayfly.MaxPriority || task.Attempt < 1 || task.Size < 0 || len(task.Attempts) > maxAttempts || len(task.LimitKey) > maxLimitKey {
		return task, fmt.Errorf("read %s: the record is out of bounds", msg.Subject)
	}
	return task, nil
}

var (
	idPattern  = regexp.MustCompile(`^[0-9a-hj-km-np-tv-z]{20}$`)
	idEncoding = base32.NewEncoding("0123456789abcdefghjkmnpqrstvwxyz").WithPadding(base32.NoPadding)
)

// keyID is the id of the task with an idempotency key: the same for the same
// key of a workload in a space.
func keyID(space, queue, key string) string {
	sum := sha256.Sum256([]byte(space + "\x00" + queue + "\x00" + key))
	return idEncoding.EncodeToString(sum[:])[:20]
}

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

func pendingSubject(t mayfly.Task) string {
	return bus.PendingSubject(t.Space, queueOf(t), strconv.Itoa(t.Priority), t.ID)
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
