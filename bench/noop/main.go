// Command noop is what the containers run that tasks are measured with: as
// `noop serve` it answers every request with nothing, otherwise it says when it
// was started, in nanoseconds.
package main

import (
	"fmt"
	"net/http"
	"os"
	"time"
)

func main() {
	if len(os.Args) < 2 {
		fmt.Println(time.Now().UnixNano())
		return
	}
	err := http.ListenAndServe(":"+os.Getenv("PORT"), http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}
