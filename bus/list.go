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
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sys/unix"
)

// Domain is the JetStream domain. It is set from the first day on, because
// a server that had none cannot grow into a cluster with its streams.
const Domain = "mayfly"

// MaxMessage is the size limit of one message or value, in bytes.
const MaxMessage = 1 << 20

// The names of what there is. Every key starts with the space, and every
// subject with the root and then the space, so that a space can become a NATS
// account. (A subject cannot start with the space itself: JetStream refuses a
// stream on a leading wildcard, which would overlap with its own subjects.)
//
//	name      what    storage                     written by  keys or subjects
//	state     bucket  file, synced on each write  store       SPACE.workloads.NAME
//	                                                          SPACE.instances.ID
//	                                                          SPACE.names.NAME
//	releases  bucket  file, synced on each write  store       SPACE.releases.NAME.NUMBER
//	runs      stream  file, synced now and then   store       mayfly.SPACE.runs.WORKLOAD
//
// All of state is watched, and a watch of a part of a stream costs the server
// a walk over all its subjects for every message. So releases, which nobody
// watches, are apart.
const (
	StateBucket    = "state"
	StateStream    = "KV_" + StateBucket // under the bucket
	ReleasesBucket = "releases"
	ReleasesStream = "KV_" + ReleasesBucket
	RunsStream     = "runs"
)

// How much call history is kept; whichever limit is met first wins.
const (
	RunsMaxAge         = 7 * 24 * time.Hour
	RunsMaxBytes       = 256 << 20
	RunsMaxPerWorkload = 10_000
	runMaxSize         = 64 << 10
)

// MarkerTTL is how long the marker of a removed key stays, so that a watcher
// that was away for less still sees the removal.
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

// StateSubject is the subject under which the state bucket stores a key, for
// conditions that the key-value calls cannot express. Wildcards are allowed.
func StateSubject(key string) string { return "$KV." + StateBucket + "." + key }

// ReleaseSubject is StateSubject for the bucket of releases.
func ReleaseSubject(key string) string { return "$KV." + ReleasesBucket + "." + key }

// RunSubject is the subject of a workload's call history. The id of a run is
// not part of it: a subject for each run would be kept in memory and replayed
// at every start, and a limit for each workload could not be set.
func RunSubject(space, workload string) string { return root + space + ".runs." + workload }

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

// listFile holds the fingerprint of the list that was created and synced.
const listFile = "streams"

// ensureList creates or updates what the list names and takes the handles. The
// fingerprint is written only after the sync, so a crash in between leads to
// another sync, and an unchanged list costs two look-ups.
func (b *Bus) ensureList(ctx context.Context, dir string) error {
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
	if err := syncFS(filepath.Join(dir, storeDir)); err != nil {
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
	data, err := json.Marshal([]any{stateConfig(), releasesConfig(), runsConfig()})
	if err != nil {
		return "", fmt.Errorf("encode stream list: %w", err)
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:]) + "\n", nil
}

// syncFS writes everything that the file system of dir holds in memory to its
// disk. JetStream leaves a new stream's metadata unsynced, and without it the
// whole stream is gone after a power loss.
func syncFS(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync data directory: %w", err)
	}
	defer f.Close()
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		return fmt.Errorf("sync data directory: %w", err)
	}
	return nil
}
