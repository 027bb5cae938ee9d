// Package schedule is the arithmetic of schedules: at which times a schedule
// ticks, which of its ticks are to be fired now and when to look again.
//
// It reads no clock, opens no connection and starts nothing: the same schedule,
// state and time always give the same plan, on every node. A tick has a key
// that follows from its nominal time, so that whoever fires it twice submits
// one task. Storing schedules and firing their ticks is left to package queue.
package schedule
