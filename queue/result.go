package queue

// MaxResult is how much of a standard output, or of an answer, is read as a
// task's result, in bytes; Options.Output may keep less. A byte more tells Done
// that there was more.
const MaxResult = 1 << 20
