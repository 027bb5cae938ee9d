package vm

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestOnlyWhatFailedIsShown(t *testing.T) {
	const mark = "\x16"
	output := mark + "=== RUN   TestGood\n" +
		"    a_test.go:1: a word of the good one\n" +
		mark + "--- PASS: TestGood (0.01s)\n" +
		mark + "=== RUN   TestBad\n" +
		mark + "=== RUN   TestBad/part\n" +
		"    a_test.go:2: got 1, want 2\n" +
		mark + "=== NAME  TestBad\n" +
		mark + "--- FAIL: TestBad (0.00s)\n" +
		mark + "    --- FAIL: TestBad/part (0.00s)\n" +
		mark + "=== RUN   TestStuck\n" +
		"panic: test timed out after 1s\n"
	events, err := testEvents(t.Context(), output)
	if err != nil {
		t.Fatal(err)
	}
	said, passed := failures(events)
	want := "--- FAIL: TestBad (0.00s)\n" +
		"--- FAIL: TestBad/part (0.00s)\n" +
		"    a_test.go:2: got 1, want 2\n" +
		"--- FAIL: TestStuck never ended\n" +
		"panic: test timed out after 1s\n"
	if diff := cmp.Diff(want, said); diff != "" || passed != 1 {
		t.Errorf("%d passed; -want +got\n%s", passed, diff)
	}
}
