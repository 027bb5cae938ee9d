package bus

import (
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mayfly-run/mayfly"
)

// Room says what the file system of the data directory has room for.
type Room int32

// From much to none. Nothing new is to be begun when there is room for ends
// only: that is kept for what becomes of what is there already. Without room
// nothing is to be written that can wait.
const (
	RoomForAll Room = iota
	RoomForEnds
	NoRoom
)

// What is kept of the file system for ends: a fiftieth, within these bounds in
// bytes. Half of it is kept for what runs when there is no room for more.
const (
	reserveLeast = 32 << 20
	reserveMost  = 1 << 30
	filesKept    = 512 // that can be made yet, where a file system counts them
)

// roomToOpen is what must be free to start at all, in bytes.
const roomToOpen = 4 << 20

// roomAge is how old the answer of Room may be.
const roomAge = 100 * time.Millisecond

// gauge remembers what Room found last.
type gauge struct {
	mu      sync.Mutex
	looked  time.Time
	room    Room
	refused bool // the engine could not write; guarded by mu
}

// Room says what there is room for. It costs next to nothing, and the answer
// may be a tenth of a second old.
func (b *Bus) Room() Room {
	b.gauge.mu.Lock()
	defer b.gauge.mu.Unlock()
	if b.gauge.refused {
		return NoRoom
	}
	return b.look()
}

// RoomFor reports whether there is room for so many bytes more, and would be
// RoomForAll still. It asks the file system.
func (b *Bus) RoomFor(bytes int64) bool {
	var fs unix.Statfs_t
	if err := unix.Statfs(b.dir, &fs); err != nil {
		return true // a write will say what is wrong
	}
	return roomOf(int64(fs.Blocks)*fs.Bsize, int64(fs.Bavail)*fs.Bsize-bytes, int64(fs.Files), int64(fs.Ffree)) == RoomForAll
}

// look asks the file system, if it was not asked just now. The gauge is locked.
func (b *Bus) look() Room {
	g := &b.gauge
	if !g.looked.IsZero() && time.Since(g.looked) < roomAge {
		return g.room
	}
	g.looked = time.Now()
	var fs unix.Statfs_t
	if err := unix.Statfs(b.dir, &fs); err != nil {
		return g.room // a write will say what is wrong
	}
	room := roomOf(int64(fs.Blocks)*fs.Bsize, int64(fs.Bavail)*fs.Bsize, int64(fs.Files), int64(fs.Ffree))
	if room != g.room {
		said := map[Room]string{
			RoomForAll:  "the disk of the data directory has room again",
			RoomForEnds: "the disk of the data directory is nearly full: no new tasks are accepted until some is freed",
			NoRoom:      "the disk of the data directory is full: tasks wait until some is freed",
		}
		log := b.log.Warn
		if room == RoomForAll {
			log = b.log.Info
		}
		log(said[room], "free", fs.Bavail*uint64(fs.Bsize), "dir", b.dir)
	}
	g.room = room
	return room
}

// checkRoom refuses to open a directory on a disk on which not even that works.
func checkRoom(dir string) error {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return fmt.Errorf("look at the disk of the data directory: %w", err)
	}
	if free := int64(fs.Bavail) * fs.Bsize; free < roomToOpen {
		return mayfly.Errorf(mayfly.Unavailable, "the disk of the data directory %s is full: %d kB are free, and %d are needed to start", dir, free>>10, roomToOpen>>10).
			WithHint("free some of it")
	}
	return nil
}

// roomOf judges a file system by its size and what is free of it, in bytes and
// in files.
func roomOf(size, free, files, freeFiles int64) Room {
	reserve := min(max(size/50, reserveLeast), reserveMost)
	few := int64(filesKept)
	if files == 0 { // it does not count them
		few = -1
	}
	switch {
	case free < reserve/2 || freeFiles < few/2:
		return NoRoom
	case free < reserve || freeFiles < few:
		return RoomForEnds
	}
	return RoomForAll
}
