package event

import (
	"bytes"
	"encoding/json"
	"errors"
	"mime"
	"net/http"
	"net/url"
	"strings"

	"github.com/mayfly-run/mayfly"
)

// The media types of the HTTP binding.
const (
	ContentEvent = contentStructured
	ContentBatch = "application/cloudevents-batch+json"
)

// MaxBody is the limit of what carries events, in bytes.
const MaxBody = 16 << 20

// Decode reads the events that an HTTP request or answer carries, in binary,
// structured or batch form. What it returns was checked: the error is Invalid or
// TooLarge, and says of a batch which of its events is wrong. Where complete is not
// nil, it may set what an event lacks before that.
func Decode(header http.Header, body []byte, complete func(*mayfly.Event)) ([]mayfly.Event, error) {
	if complete == nil {
		complete = func(*mayfly.Event) {}
	}
	contentType := header.Get("Content-Type")
	media, params, err := mime.ParseMediaType(contentType)
	if contentType != "" && err != nil {
		return nil, mayfly.Errorf(mayfly.Invalid, "Content-Type %.100q is not a media type", contentType)
	}
	if set := params["charset"]; strings.HasPrefix(media, "application/cloudevents") && set != "" && !strings.EqualFold(set, "utf-8") && !strings.EqualFold(set, "us-ascii") {
		return nil, mayfly.Errorf(mayfly.Invalid, "events in charset %.40q cannot be read", set).WithHint("send UTF-8")
	}
	switch {
	case media == ContentEvent:
		var ev mayfly.Event
		if err := unmarshal(body, &ev); err != nil {
			return nil, err
		}
		complete(&ev)
		return []mayfly.Event{ev}, ev.Check()
	case media == ContentBatch:
		return decodeBatch(body, complete)
	case strings.HasPrefix(media, "application/cloudevents"):
		return nil, mayfly.Errorf(mayfly.Invalid, "Content-Type %.100q is a form of events that is not known", media).
			WithHint("send %s, %s, or headers that begin with ce-", ContentEvent, ContentBatch)
	}
	ev, err := decodeBinary(header, body)
	if err != nil {
		return nil, err
	}
	complete(&ev)
	return []mayfly.Event{ev}, ev.Check()
}

// IsEvent reports whether the header is one of something that carries events.
func IsEvent(header http.Header) bool {
	return strings.HasPrefix(header.Get("Content-Type"), "application/cloudevents") || header.Get("Ce-Specversion") != ""
}

func unmarshal(body []byte, ev *mayfly.Event) error {
	if len(bytes.TrimSpace(body)) == 0 {
		return mayfly.Errorf(mayfly.Invalid, "there is no event: the body is empty")
	}
	var e *mayfly.Error
	err := json.Unmarshal(body, ev)
	if err == nil || errors.As(err, &e) {
		return err
	}
	return mayfly.Errorf(mayfly.Invalid, "the event is not valid JSON: %s", err)
}

func decodeBatch(body []byte, complete func(*mayfly.Event)) ([]mayfly.Event, error) {
	var raw []json.RawMessage
	if err := json.Unmarshal(body, &raw); err != nil {
		return nil, mayfly.Errorf(mayfly.Invalid, "a batch is a JSON array of events: %s", err)
	}
	if len(raw) > MaxBatch {
		return nil, mayfly.Errorf(mayfly.TooLarge, "%d events at once, and the limit is %d", len(raw), MaxBatch).WithHint("send them in parts")
	}
	events := make([]mayfly.Event, len(raw))
	for i, text := range raw {
		err := unmarshal(text, &events[i])
		if err == nil {
			complete(&events[i])
			err = events[i].Check()
		}
		if err != nil {
			return nil, numbered(err, i, len(raw))
		}
	}
	return events, nil
}

// decodeBinary reads attributes from headers; the body is the data.
func decodeBinary(header http.Header, body []byte) (ev mayfly.Event, err error) {
	if header.Get("Ce-Specversion") == "" {
		return ev, mayfly.Errorf(mayfly.Invalid, "this is no event: there is neither a ce-specversion header nor a Content-Type of %s", ContentEvent).
			WithHint("send ce-specversion: 1.0, ce-id, ce-source, ce-type and the data as the body")
	}
	for name, values := range header {
		attribute, is := strings.CutPrefix(name, "Ce-")
		if !is {
			continue
		}
		attribute = strings.ToLower(attribute)
		switch {
		case len(values) != 1:
			return ev, mayfly.Errorf(mayfly.Invalid, "the header %.80s is there %d times", strings.ToLower(name), len(values))
		case attribute == "datacontenttype":
			return ev, mayfly.Errorf(mayfly.Invalid, "the header ce-datacontenttype cannot be set").WithHint("Content-Type says it")
		}
		value, err := headerText(values[0])
		if err != nil {
			return ev, mayfly.Errorf(mayfly.Invalid, "the header %.80s is not percent-encoded rightly", strings.ToLower(name))
		}
		if err := ev.SetAttribute(attribute, value); err != nil {
			return ev, err
		}
	}
	ev.DataContentType = header.Get("Content-Type")
	if len(body) > 0 {
		ev.Data = body
	}
	return ev, nil
}

// headerText is what the value of a header stands for: quotes that some senders
// put around it go first, and then one round of percent-encoding.
func headerText(value string) (string, error) {
	if len(value) >= 2 && value[0] == '"' && value[len(value)-1] == '"' {
		var b strings.Builder
		inner := value[1 : len(value)-1]
		for i := 0; i < len(inner); i++ {
			if inner[i] == '\\' && i+1 < len(inner) {
				i++
			}
			b.WriteByte(inner[i])
		}
		value = b.String()
	}
	return url.PathUnescape(value)
}
