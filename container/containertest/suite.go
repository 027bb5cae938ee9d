package containertest

import "testing"

// Run holds the driver to what package container promises.
func Run(t *testing.T, p Programs, maker Maker) {
	b := NewBed(t, p, maker)
	for _, c := range []struct {
		name string
		test func(*testing.T, *Bed)
	}{
		{"exit codes", exitCodes},
		{"signals", signals},
		{"programs that cannot be run", cannotRun},
		{"standard streams", streams},
		{"log", logged},
		{"log bounds", logBounds},
		{"log is followed", followed},
		{"attach", attached},
		{"orphans", orphans},
		{"signals to init", forwarded},
		{"stop", stopped},
		{"spawn", spawned},
		{"named programs", namedPrograms},
		{"programs without a main one", onlySpawned},
		{"one network for two", joined},
		{"programs of other users", otherUsers},
		{"mounted files that are replaced", replaced},
		{"one start", oneStart},
		{"memory", memory},
		{"out of memory", outOfMemory},
		{"processor", processor},
		{"processes", processes},
		{"open files", openFiles},
		{"tmpfs", tmpfs},
		{"read-only", readOnly},
		{"binds", binds},
		{"users", users},
		{"working directory", workDir},
		{"environment", environment},
		{"files of the host's", hostFiles},
		{"layers", layers},
		{"network", networks},
		{"dial", dial},
		{"sockets", sockets},
		{"adopt", adopted},
		{"discard", discarded},
		{"half made", halfMade},
		{"cancelled", cancelled},
		{"churn", churn},
		{"at once", atOnce},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, b) })
	}
}
