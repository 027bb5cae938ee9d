package event

import (
	"fmt"
	"slices"

	"github.com/mayfly-run/mayfly"
)

// VolumeSource is the source of the events of files that come into a volume.
func VolumeSource(name string) string { return "/volumes/" + name }

// OwnFiles says of which volumes a function gets the events of all files that come
// into them while it may write there, one line for each: where it does, it runs for
// its own files. The kernel does not say who wrote a file, so these events count no
// deliveries and nothing else ends that. Mappings with a filter are left out: they
// may well leave out what the function writes.
func (e *Events) OwnFiles(w mayfly.Workload) (lines []string) {
	list := ManifestMappings(&w)
	for _, rec := range e.store.EventMappings.List(w.Space) {
		if rec.Value.Workload == w.Name {
			list = append(list, rec.Value)
		}
	}
	for _, mount := range w.Volumes {
		rec, found := e.store.Volumes.Find(w.Space, mount.Volume)
		if v := rec.Value; !found || mount.ReadOnly || !v.Events.On() || !slices.ContainsFunc(list, func(m mayfly.EventMapping) bool {
			return wants(m.Type, v.Events.Type) && (m.Source == "" || wants(m.Source, VolumeSource(v.Name))) && len(m.Filter) == 0 && m.SQL == ""
		}) {
			continue
		}
		line := fmt.Sprintf("%s may write to volume %s, and runs for each file there: its own too", w.Name, mount.Volume)
		if !slices.Contains(lines, line) {
			lines = append(lines, line)
		}
	}
	return lines
}

// TellOwnFiles makes news of what OwnFiles says, and returns that.
func (e *Events) TellOwnFiles(w mayfly.Workload) []string {
	lines := e.OwnFiles(w)
	for _, line := range lines {
		e.store.RecordNews(mayfly.News{Space: w.Space, Type: "function.loops", Subject: w.Name, Text: line})
	}
	return lines
}
