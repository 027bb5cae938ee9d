package bus

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/mayfly-run/mayfly/disk"
)

// Domain is the JetStream domain. It is set from the first day on, because
// a server that had none cannot grow into a cluster with its streams.
const Domain = "mayfly"

// MaxMessage is the size limit of one message or value, in bytes.
const MaxMessage = 1<<20 + 64<<10

// The names of what there is. Every key starts with the space, and every
// subject but those of journals with the root and then the space, so that a space
// can become a NATS account. (A subject cannot start with the space itself: JetStream refuses a
// stream on a leading wildcard, which would overlap with its own subjects.)
//
//	name      what    storage                     written by  keys or subjects
//	state     bucket  file, synced on each write  store       SPACE.workloads.NAME
//	                                                          SPACE.instances.ID
//	                                                          SPACE.names.NAME
//	                                                          SPACE.TABLE.NAME
//	releases  bucket  file, synced on each write  store       SPACE.releases.NAME.NUMBER
//	runs      stream  file, synced now and then   store       mayfly.SPACE.runs.WORKLOAD
//	tasks     journal file, synced on each write  queue       mayfly.tasks
//	parked    stream  file, synced on each write  queue       mayfly.SPACE.later.MINUTE.WORKLOAD.PRIORITY.ID
//	                                                          mayfly.SPACE.held.PARENT.WORKLOAD.PRIORITY.ID
//	                                                          mayfly.SPACE.dead.WORKLOAD.ID
//	queues    stream  file, synced on each write  queue       mayfly.SPACE.queue.WORKLOAD
//	                                                          mayfly.SPACE.minute.MINUTE
//	outcomes  journal file, synced on each write  queue       mayfly.outcomes
//	schedules stream  file, synced on each write  queue       mayfly.SPACE.schedule.NAME
//	                                                          mayfly.SPACE.ticks.NAME
//	callbacks stream  file, synced on each write  queue       mayfly.SPACE.callback.ID
//	                                                          mayfly.SPACE.secret
//	news      stream  file, synced now and then   store       mayfly.SPACE.news
//	endpoints stream  memory                      discovery   mayfly.SPACE.endpoint.SERVICE.NODE.ID
//	locks     stream  file, synced on each write  discovery   mayfly.SPACE.lock.NAME
//	events    journal file, synced on each write  event       mayfly.events
//	deliveries stream file, synced on each write  event       mayfly.SPACE.delivered.MAPPING
//	                                                          mayfly.SPACE.upload.VOLUME
//
// All of state is watched, and a watch of a part of a stream costs the server
// a walk over all its subjects for every message. So releases, which nobody
// watches, are apart. So are tasks that wait for a time, for other tasks or for a
// person, which can be long: what is left of tasks that ended is removed from the
// front of the journal of those that wait their turn, for all at once.
const (
	StateBucket     = "state"
	StateStream     = "KV_" + StateBucket // under the bucket
	ReleasesBucket  = "releases"
	ReleasesStream  = "KV_" + ReleasesBucket
	RunsStream      = "runs"
	TasksStream     = "tasks"
	ParkedStream    = "parked"
	QueuesStream    = "queues"
	OutcomesStream  = "outcomes"
	SchedulesStream = "schedules"
	CallbacksStream = "callbacks"
	NewsStream      = "news"
	EndpointsStream = "endpoints"
	LocksStream     = "locks"
	EventsStream    = "events"

	DeliveriesStream = "deliveries"
)

// How much call history is kept; whichever limit is met first wins.
const (
	RunsMaxAge         = 7 * 24 * time.Hour
	RunsMaxBytes       = 512 << 20
	RunsMaxPerWorkload = 10_000 // messages; each has up to 16 runs
	runMaxSize         = 64 << 10
)

// How much the queue holds. Tasks that wait are never dropped: a full stream
// refuses the next. Of outcomes the oldest go, whichever limit is met first.
const (
	TasksMaxBytes     = 8 << 30
	OutcomesMaxAge    = 7 * 24 * time.Hour
	OutcomesMaxBytes  = 1 << 30
	OutcomesMax       = 500_000
	CallbacksMaxBytes = 1 << 30
)

// SchedulesMaxBytes is how much schedules may take, their payloads included.
const SchedulesMaxBytes = 2 << 30

// EventsMaxBytes is how much events may take: the keep of package event and what
// was not delivered yet. Then no more are accepted.
const EventsMaxBytes = 4 << 30

// How much news is kept; whichever limit is met first wins.
const (
	NewsMaxAge   = 30 * 24 * time.Hour
	NewsMaxBytes = 32 << 20
	NewsMax      = 20_000
)

// MarkerTTL is how long the marker of a removed instance or lock stays, so that a
// watcher that was away for less still sees the removal. Markers of what has a name
// stay for ever: a value of before is still in the file, and comes back with a
// kill -9 once no newer message of its subject is there. Of instances there are ever
// new ones, and one that comes back is known by its age.
const MarkerTTL = 10 * time.Minute

// WorkloadKey is the key of a workload's record: its active release.
func WorkloadKey(space, name string) string { return space + ".workloads." + name }

// ReleaseKey is the key of one release. Numbers are padded so that keys sort.
func ReleaseKey(space, name string, number int) string {
	return fmt.Sprintf("%s.releases.%s.%08d", space, name, number)
}

// InstanceKey is the key of an instance.
func InstanceKey(space, id string) string { return space + ".instances." + id }

// NameKey is the key that holds the id of the instance that has the name.
func NameKey(space, name string) string { return space + ".names." + name }

// TableKey is the key of a record of one of the store's tables.
func TableKey(space, table, name string) string { return space + "." + table + "." + name }

// EverNew reports whether a subject of the state is of an instance or of its name.
func EverNew(subject string) bool {
	parts := strings.Split(subject, ".")
	return len(parts) == 5 && (parts[3] == "instances" || parts[3] == "names")
}

// StateSubject is the subject under which the state bucket stores a key, for
// conditions that the key-value calls cannot express. Wildcards are allowed.
func StateSubject(key string) string { return "$KV." + StateBucket + "." + key }

// ReleaseSubject is StateSubject for the bucket of releases.
func ReleaseSubject(key string) string { return "$KV." + ReleasesBucket + "." + key }

// RunSubject is the subject of a workload's call history. The id of a run is
// not part of it: a subject for each run would be kept in memory and replayed
// at every start, and a limit for each workload could not be set.
func RunSubject(space, workload string) string { return root + space + ".runs." + workload }

// JournalSubject is the one subject of a stream that is a Journal.
func JournalSubject(stream string) string { return root + stream }

// LaterSubject is the subject of a task that waits for a time in the minute,
// counted from 1970. Wildcards are allowed, here and below.
func LaterSubject(space, minute, workload, priority, id string) string {
	return root + space + ".later." + minute + "." + workload + "." + priority + "." + id
}

// HeldSubject is the subject of a task that waits for a parent to succeed.
func HeldSubject(space, parent, workload, priority, id string) string {
	return root + space + ".held." + parent + "." + workload + "." + priority + "." + id
}

// DeadSubject is the subject of a buried task.
func DeadSubject(space, workload, id string) string {
	return root + space + ".dead." + workload + "." + id
}

// QueueSubject is the subject of what was set about a workload's queue: whether
// it is paused.
func QueueSubject(space, workload string) string { return root + space + ".queue." + workload }

// MinuteSubject is the subject that says that tasks wait for the minute.
func MinuteSubject(space, minute string) string { return root + space + ".minute." + minute }

// ScheduleSubject is the subject of a schedule's definition.
func ScheduleSubject(space, name string) string { return root + space + ".schedule." + name }

// TicksSubject is the subject of how far a schedule has come. It is apart, so
// that a tick does not write the definition again.
func TicksSubject(space, name string) string { return root + space + ".ticks." + name }

// CallbackSubject is the subject that says who is to be told of a task's end.
func CallbackSubject(space, id string) string { return root + space + ".callback." + id }

// SecretSubject is the subject of the secret that a space's callbacks are signed
// with.
func SecretSubject(space string) string { return root + space + ".secret" }

// NewsSubject is the subject of a space's news.
func NewsSubject(space string) string { return root + space + ".news" }

// EndpointSubject is the subject of an endpoint that a node vouches for.
func EndpointSubject(space, service, node, id string) string {
	return root + space + ".endpoint." + service + "." + node + "." + id
}

// AliveSubject is where a node says that it is there. No stream keeps it.
func AliveSubject(node string) string { return root + "_.alive." + node }

// DrainSubject is where a node asks others whether their consumers have turned away
// from what it withdrew. No stream keeps it.
func DrainSubject() string { return root + "_.drain" }

// LockSubject is the subject of who holds a lock.
func LockSubject(space, name string) string { return root + space + ".lock." + name }

// DeliveredSubject is the subject of how far a mapping of events has come.
func DeliveredSubject(space, mapping string) string { return root + space + ".delivered." + mapping }

// UploadSubject is the subject of which files of a volume were told of.
func UploadSubject(space, volume string) string { return root + space + ".upload." + volume }

const root = "mayfly."

func stateConfig() jetstream.KeyValueConfig {
	return jetstream.KeyValueConfig{
		Bucket:         StateBucket,
		Description:    "desired and observed state",
		History:        1,
		Storage:        jetstream.FileStorage,
		LimitMarkerTTL: MarkerTTL,
	}
}

func releasesConfig() jetstream.KeyValueConfig {
	return jetstream.KeyValueConfig{
		Bucket:      ReleasesBucket,
		Description: "immutable revisions of workloads",
		History:     1,
		Storage:     jetstream.FileStorage,
	}
}

func runsConfig() jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name:              RunsStream,
		Description:       "call history",
		Subjects:          []string{RunSubject("*", "*")},
		Storage:           jetstream.FileStorage,
		PersistMode:       jetstream.AsyncPersistMode,
		Retention:         jetstream.LimitsPolicy,
		Discard:           jetstream.DiscardOld,
		MaxAge:            RunsMaxAge,
		MaxBytes:          RunsMaxBytes,
		MaxMsgsPerSubject: RunsMaxPerWorkload,
		MaxMsgSize:        runMaxSize,
		AllowDirect:       true,
	}
}

// strict is a stream of which nothing acknowledged is lost or dropped. Each
// subject has one message, so a write can be made conditional on the last.
func strict(name, description string, maxBytes int64, subjects ...string) jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name:              name,
		Description:       description,
		Subjects:          subjects,
		Storage:           jetstream.FileStorage,
		Retention:         jetstream.LimitsPolicy,
		Discard:           jetstream.DiscardNew,
		MaxBytes:          maxBytes,
		MaxMsgsPerSubject: 1,
		AllowDirect:       true,
	}
}

// journal is a stream of which nothing acknowledged is lost or dropped, for a
// Journal.
func journal(name, description string, maxBytes int64) jetstream.StreamConfig {
	config := strict(name, description, maxBytes, JournalSubject(name))
	config.MaxMsgsPerSubject = -1
	return config
}

func newsConfig() jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name:        NewsStream,
		Description: "what happened",
		Subjects:    []string{NewsSubject("*")},
		Storage:     jetstream.FileStorage,
		PersistMode: jetstream.AsyncPersistMode,
		Retention:   jetstream.LimitsPolicy,
		Discard:     jetstream.DiscardOld,
		MaxAge:      NewsMaxAge,
		MaxBytes:    NewsMaxBytes,
		MaxMsgs:     NewsMax,
		MaxMsgSize:  runMaxSize,
		AllowDirect: true,
	}
}

// endpointsConfig is of what is rebuilt at each start, in memory. Each endpoint
// has one message.
func endpointsConfig() jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name:                   EndpointsStream,
		Description:            "ready ports",
		Subjects:               []string{EndpointSubject("*", "*", "*", "*")},
		Storage:                jetstream.MemoryStorage,
		Retention:              jetstream.LimitsPolicy,
		Discard:                jetstream.DiscardOld,
		MaxMsgsPerSubject:      1,
		MaxMsgSize:             runMaxSize,
		AllowDirect:            true,
		AllowMsgTTL:            true,
		SubjectDeleteMarkerTTL: MarkerTTL,
	}
}

func queueConfigs() []jetstream.StreamConfig {
	locks := strict(LocksStream, "who holds which lock", -1, LockSubject("*", "*"))
	locks.AllowMsgTTL = true // for those that nobody holds
	outcomes := journal(OutcomesStream, "how tasks ended", OutcomesMaxBytes)
	outcomes.Discard = jetstream.DiscardOld
	outcomes.MaxAge = OutcomesMaxAge
	return []jetstream.StreamConfig{
		journal(TasksStream, "tasks that wait their turn", TasksMaxBytes),
		strict(ParkedStream, "tasks that wait for a time, other tasks or a person", TasksMaxBytes,
			LaterSubject("*", "*", "*", "*", "*"), HeldSubject("*", "*", "*", "*", "*"), DeadSubject("*", "*", "*")),
		strict(QueuesStream, "which queues are paused, and which minutes have tasks", -1, QueueSubject("*", "*"), MinuteSubject("*", "*")),
		outcomes,
		strict(CallbacksStream, "who is to be told how tasks ended", CallbacksMaxBytes, CallbackSubject("*", "*"), SecretSubject("*")),
		locks,
		journal(EventsStream, "events", EventsMaxBytes),
		strict(DeliveriesStream, "how far events were delivered", -1, DeliveredSubject("*", "*"), UploadSubject("*", "*")),
		strict(SchedulesStream, "schedules, and how far they have come", SchedulesMaxBytes, ScheduleSubject("*", "*"), TicksSubject("*", "*")),
	}
}

// Endpoints returns the stream of endpoints. It is in memory and gone with the
// server, so it is created when it is missing.
func (b *Bus) Endpoints(ctx context.Context) (jetstream.Stream, error) {
	stream, err := b.js.CreateOrUpdateStream(ctx, endpointsConfig())
	if err != nil {
		return nil, fmt.Errorf("create stream %s: %w", EndpointsStream, err)
	}
	return stream, nil
}

// listFile holds the fingerprint of the list that was created and synced.
const listFile = "streams"

// ensureList creates or updates what the list names and takes the handles. The
// fingerprint is written only after the sync, so a crash in between leads to
// another sync, and an unchanged list costs two look-ups.
func (b *Bus) ensureList(ctx context.Context, dir string) error {
	if _, err := b.Endpoints(ctx); err != nil { // nothing of it is to be synced
		return err
	}
	mark, err := fingerprint()
	if err != nil {
		return err
	}
	have, err := os.ReadFile(filepath.Join(dir, listFile))
	if err == nil && string(have) == mark && b.lookUp(ctx) == nil {
		return nil
	}
	if b.state, err = b.js.CreateOrUpdateKeyValue(ctx, stateConfig()); err != nil {
		return fmt.Errorf("create bucket %s: %w", StateBucket, err)
	}
	if _, err = b.js.CreateOrUpdateKeyValue(ctx, releasesConfig()); err != nil {
		return fmt.Errorf("create bucket %s: %w", ReleasesBucket, err)
	}
	if b.runs, err = b.js.CreateOrUpdateStream(ctx, runsConfig()); err != nil {
		return fmt.Errorf("create stream %s: %w", RunsStream, err)
	}
	for _, config := range append(queueConfigs(), newsConfig()) {
		if config.Name == OutcomesStream {
			b.asKept(ctx, &config)
		}
		if _, err := b.js.CreateOrUpdateStream(ctx, config); err != nil {
			return fmt.Errorf("create stream %s: %w", config.Name, err)
		}
	}
	// JetStream leaves a new stream's metadata unsynced, and without it the whole
	// stream is gone after a power loss.
	if err := disk.SyncFS(filepath.Join(dir, storeDir)); err != nil {
		return err
	}
	return replaceFile(dir, listFile, mark)
}

func (b *Bus) lookUp(ctx context.Context) error {
	var err1, err2 error
	b.state, err1 = b.js.KeyValue(ctx, StateBucket)
	b.runs, err2 = b.js.Stream(ctx, RunsStream)
	return errors.Join(err1, err2)
}

func fingerprint() (string, error) {
	data, err := json.Marshal([]any{stateConfig(), releasesConfig(), runsConfig(), newsConfig(), queueConfigs()})
	if err != nil {
		return "", fmt.Errorf("encode stream list: %w", err)
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:]) + "\n", nil
}
