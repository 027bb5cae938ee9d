package image

import (
	"context"
	"io"
	"log/slog"

	"github.com/containerd/log"
	"github.com/sirupsen/logrus"
)

// withQuietLog sends the warnings of containerd's libraries to our own log; by
// themselves they print to stderr.
func withQuietLog(ctx context.Context, to *slog.Logger) context.Context {
	l := logrus.New()
	l.SetOutput(io.Discard)
	l.SetLevel(logrus.WarnLevel)
	l.AddHook(slogHook{to})
	return log.WithLogger(ctx, logrus.NewEntry(l))
}

// quietLibraries keeps what they print elsewhere to errors: some of it goes to
// logrus's own logger, whatever the context says, and is of no use to anyone
// ("failed check for fsverity support").
func quietLibraries() { logrus.SetLevel(logrus.ErrorLevel) }

type slogHook struct{ to *slog.Logger }

func (h slogHook) Levels() []logrus.Level { return logrus.AllLevels }

func (h slogHook) Fire(e *logrus.Entry) error {
	args := make([]any, 0, 2*len(e.Data))
	for k, v := range e.Data {
		args = append(args, k, v)
	}
	h.to.Warn("image: "+e.Message, args...)
	return nil
}
