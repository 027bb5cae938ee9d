package bus

import (
	"fmt"
	"log/slog"
	"strings"
	"sync"
)

// serverLog hands the server's lines to slog. What the server calls a notice is
// of no interest to whoever runs Mayfly, so it becomes a debug line, and so does
// what the server has to mend after every crash.
type serverLog struct {
	log    *slog.Logger
	broken chan struct{} // gets a value when a stream could not write; nil: nobody asks

	mu   sync.Mutex
	died error // the first fatal line
}

func (l *serverLog) Noticef(format string, v ...any) { l.log.Debug(fmt.Sprintf(format, v...)) }
func (l *serverLog) Debugf(format string, v ...any)  { l.log.Debug(fmt.Sprintf(format, v...)) }
func (l *serverLog) Tracef(format string, v ...any)  { l.log.Debug(fmt.Sprintf(format, v...)) }

func (l *serverLog) Errorf(format string, v ...any) {
	text := fmt.Sprintf(format, v...)
	l.log.Error(text)
	if refusedWrite(text) {
		wakeUp(l.broken)
	}
}

// refusedWrite reports whether an error says that a stream has ceased to write.
// The server says so in no other way.
func refusedWrite(text string) bool {
	for _, sign := range []string{"ritical write error", "failed to store a msg", "will be DISABLED", "disabling JetStream"} {
		if strings.Contains(text, sign) {
			return true
		}
	}
	return false
}

func (l *serverLog) Warnf(format string, v ...any) {
	text := fmt.Sprintf(format, v...)
	if stale(text) {
		l.log.Debug(text)
	} else {
		l.log.Warn(text)
	}
}

// stale reports whether a warning only says that an index is older than the
// messages, from which the server then makes it anew: indexes are written now
// and then, and when the server is closed.
func stale(text string) bool {
	for _, sign := range []string{"Stream state outdated", "Stream state detected prior state", "errored: prior state file", "state is outdated; attempting to recover"} {
		if strings.Contains(text, sign) {
			return true
		}
	}
	return false
}

// Fatalf keeps the text for Open to return; the server then stops by itself.
func (l *serverLog) Fatalf(format string, v ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.died == nil {
		l.died = fmt.Errorf(format, v...)
	}
}

func (l *serverLog) fatal() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.died
}
