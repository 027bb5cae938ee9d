package image_test

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/mayfly-run/mayfly/image"
)

// TestMain is also the process that the tests of kill -9 start and kill.
func TestMain(m *testing.M) {
	if dir := os.Getenv("MAYFLY_TEST_IMPORT_INTO"); dir != "" {
		s, err := image.Open(dir, image.Options{})
		if err == nil {
			_, err = s.Import(context.Background(), "killed", os.Stdin)
		}
		fmt.Println("imported", err)
		return
	}
	if dir := os.Getenv("MAYFLY_TEST_USE_IN"); dir != "" {
		s, err := image.Open(dir, image.Options{})
		if err == nil {
			_, err = s.Use(context.Background(), os.Getenv("MAYFLY_TEST_DIGEST"), "instance/1")
		}
		fmt.Println("used", err)
		time.Sleep(time.Hour) // until it is killed; the runtime takes an empty select for a deadlock
	}
	goleak.VerifyTestMain(m)
}
