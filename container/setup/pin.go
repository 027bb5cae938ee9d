package setup

import _ "unsafe" // for linkname

// procPin keeps the scheduler from taking the thread away from the goroutine
// until procUnpin. A forked stage is pinned for good, since no other thread is
// there to which the scheduler could turn.
//
//go:linkname procPin runtime.procPin
func procPin() int

//go:linkname procUnpin runtime.procUnpin
func procUnpin()
