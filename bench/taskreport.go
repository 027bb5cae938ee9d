package main

import (
	"fmt"
	"io"
)

// taskTables writes what was measured about tasks.
func (r *Results) taskTables(t io.Writer) {
	if len(r.Tasks) > 0 {
		fmt.Fprint(t, "\njobs that do nothing\tinserted /s\tworked /s\tin all /s\tCPU ms each\t\n")
	}
	for _, l := range r.Tasks {
		fmt.Fprintf(t, "%s\t%.0f\t%.0f\t%.0f\t%.3f\t\n", l.What, l.Inserted, l.Worked, l.InAll, l.CPU)
	}
}
