package mayfly

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"mime"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Bounds of an event.
const (
	MaxEventData       = 1_000_000 // bytes
	MaxEventAttributes = 8 << 10   // bytes of all names and values, as a header would have them
	maxAttributeName   = 64
	specVersion        = "1.0"
)

// contentJSON is what data is whose type nobody says.
const contentJSON = "application/json"

// JSONData reports whether the event's data is JSON, as its type says.
func (e *Event) JSONData() bool { return isJSON(e.DataContentType) }

func isJSON(contentType string) bool {
	if contentType == "" {
		return true
	}
	media, _, err := mime.ParseMediaType(contentType)
	if err != nil {
		return false
	}
	return media == contentJSON || media == "text/json" || strings.HasSuffix(media, "+json")
}

// Attribute returns the value of an attribute by its name, and whether the event
// has it. Values are in their canonical string form.
func (e *Event) Attribute(name string) (string, bool) {
	value := ""
	switch name {
	case "specversion":
		return specVersion, true
	case "id":
		value = e.ID
	case "source":
		value = e.Source
	case "type":
		value = e.Type
	case "subject":
		value = e.Subject
	case "datacontenttype":
		value = e.DataContentType
	case "dataschema":
		value = e.DataSchema
	case "time":
		if !e.Time.IsZero() {
			value = e.Time.Format(time.RFC3339Nano)
		}
	default:
		value, there := e.Extensions[name]
		return value, there
	}
	return value, value != ""
}

// Attributes calls each with every attribute that the event has, in a fixed order.
func (e *Event) Attributes(each func(name, value string)) {
	for _, name := range []string{"specversion", "id", "source", "type", "subject", "time", "datacontenttype", "dataschema"} {
		if value, there := e.Attribute(name); there {
			each(name, value)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(e.Extensions)) {
		each(name, e.Extensions[name])
	}
}

// SetAttribute sets an attribute from its canonical string form. It checks no
// more than it has to.
func (e *Event) SetAttribute(name, value string) error {
	switch name {
	case "specversion":
		if value != specVersion {
			return Errorf(Invalid, "specversion %.40q is not known", value).WithHint("this is CloudEvents 1.0")
		}
	case "id":
		e.ID = value
	case "source":
		e.Source = value
	case "type":
		e.Type = value
	case "subject":
		e.Subject = value
	case "datacontenttype":
		e.DataContentType = value
	case "dataschema":
		e.DataSchema = value
	case "time":
		at, err := time.Parse(time.RFC3339Nano, value)
		if err != nil {
			return Errorf(Invalid, "time %.40q is not a time", value).WithHint("write it like 2026-01-31T12:00:00Z")
		}
		e.Time = at
	default:
		if e.Extensions == nil {
			e.Extensions = map[string]string{}
		}
		e.Extensions[name] = value
	}
	return nil
}

// Check returns an Invalid error, or TooLarge, unless the event is one.
func (e *Event) Check() error {
	for _, a := range []struct{ name, value string }{{"id", e.ID}, {"source", e.Source}, {"type", e.Type}} {
		if a.value == "" {
			return Errorf(Invalid, "the attribute %s is missing", a.name).WithHint("an event has specversion, id, source and type")
		}
	}
	if _, err := url.Parse(e.Source); err != nil {
		return Errorf(Invalid, "source %.100q is not a URI reference", e.Source)
	}
	if u, err := url.Parse(e.DataSchema); e.DataSchema != "" && (err != nil || !u.IsAbs()) {
		return Errorf(Invalid, "dataschema %.100q is not an absolute URI", e.DataSchema)
	}
	if e.DataContentType != "" {
		if _, _, err := mime.ParseMediaType(e.DataContentType); err != nil {
			return Errorf(Invalid, "datacontenttype %.100q is not a media type", e.DataContentType)
		}
	}
	if len(e.Data) > MaxEventData {
		return Errorf(TooLarge, "the event's data has %d bytes, and the limit is %d", len(e.Data), MaxEventData).WithHint("put it elsewhere, and say where in the event")
	}
	if e.JSONData() && e.DataContentType != "" && len(e.Data) > 0 && !json.Valid(e.Data) {
		return Errorf(Invalid, "the event's data is %s, as datacontenttype says, but no valid JSON", e.DataContentType)
	}
	size := 0
	var err error
	e.Attributes(func(name, value string) {
		size += len("ce-: \r\n") + len(name) + headerLength(value)
		if err == nil {
			err = checkAttribute(name, value)
		}
	})
	if err == nil && size > MaxEventAttributes {
		err = Errorf(TooLarge, "the event's attributes take %d bytes, and the limit is %d", size, MaxEventAttributes)
	}
	return err
}

func checkAttribute(name, value string) error {
	if len(name) > maxAttributeName || strings.ContainsFunc(name, func(c rune) bool { return !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9') }) || name == "" || name == "data" {
		return Errorf(Invalid, "%.80q cannot name an attribute", name).WithHint("use up to %d of a-z and 0-9", maxAttributeName)
	}
	if !utf8.ValidString(value) {
		return Errorf(Invalid, "the attribute %s is not valid UTF-8", name)
	}
	if strings.ContainsFunc(value, func(c rune) bool { return unicode.IsControl(c) || c&0xfffe == 0xfffe || c >= 0xfdd0 && c <= 0xfdef }) {
		return Errorf(Invalid, "the attribute %s has a character that none may have", name)
	}
	return nil
}

// HeaderValue is the form of an attribute's value in the HTTP binding: what no
// header can have is percent-encoded.
func HeaderValue(value string) string {
	if headerLength(value) == len(value) {
		return value
	}
	var b strings.Builder
	for i := range len(value) {
		if c := value[i]; plainHeader(c) {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

func plainHeader(c byte) bool { return c > ' ' && c < 0x7f && c != '"' && c != '%' }

func headerLength(value string) int {
	n := len(value)
	for i := range len(value) {
		if !plainHeader(value[i]) {
			n += 2
		}
	}
	return n
}

// MarshalJSON gives the event in the CloudEvents JSON format.
func (e Event) MarshalJSON() ([]byte, error) {
	b := []byte{'{'}
	field := func(name string, value []byte) {
		if len(b) > 1 {
			b = append(b, ',')
		}
		b = append(strconv.AppendQuote(b, name), ':')
		b = append(b, value...)
	}
	var err error
	e.Attributes(func(name, value string) {
		text, failed := json.Marshal(value)
		if err == nil {
			err = failed
		}
		field(name, text)
	})
	if err != nil {
		return nil, err
	}
	switch {
	case e.Data == nil:
	case e.JSONData() && json.Valid(e.Data):
		var compact bytes.Buffer
		if err := json.Compact(&compact, e.Data); err != nil {
			return nil, err
		}
		field("data", compact.Bytes())
	case !e.JSONData() && utf8.Valid(e.Data):
		text, err := json.Marshal(string(e.Data))
		if err != nil {
			return nil, err
		}
		field("data", text)
	default:
		field("data_base64", []byte(`"`+base64.StdEncoding.EncodeToString(e.Data)+`"`))
	}
	return append(b, '}'), nil
}

// UnmarshalJSON reads an event in the CloudEvents JSON format, and leaves it to
// Check whether it is a whole one.
func (e *Event) UnmarshalJSON(text []byte) error {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return Errorf(Invalid, "an event is a JSON object")
	}
	*e = Event{}
	seen := map[string]json.RawMessage{}
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return err
		}
		name, _ := t.(string)
		if _, twice := seen[name]; twice {
			return Errorf(Invalid, "the member %.80q is there twice", name)
		}
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return err
		}
		seen[name] = value
		if name == "data" || name == "data_base64" || string(value) == "null" {
			continue
		}
		plain, err := canonical(value)
		if err != nil {
			return Errorf(Invalid, "the attribute %.80s %w", name, err)
		}
		if err := e.SetAttribute(name, plain); err != nil {
			return err
		}
	}
	if _, there := seen["specversion"]; !there {
		return Errorf(Invalid, "the attribute specversion is missing").WithHint("an event has specversion, id, source and type")
	}
	return e.unmarshalData(seen["data"], seen["data_base64"])
}

// canonical is the canonical string of an attribute's JSON value.
func canonical(value json.RawMessage) (string, error) {
	switch c := value[0]; {
	case c == '"':
		var text string
		err := json.Unmarshal(value, &text)
		return text, err
	case c == 't' || c == 'f':
		return string(value), nil
	case c == '{' || c == '[':
		return "", fmt.Errorf("has structure, and can be a text, a whole number or a truth value")
	}
	n, err := strconv.ParseInt(string(value), 10, 32)
	if err != nil {
		return "", fmt.Errorf("is %.40s, which is no whole number of 32 bits", value)
	}
	return strconv.FormatInt(n, 10), nil
}

func (e *Event) unmarshalData(data, encoded json.RawMessage) error {
	switch {
	case data != nil && encoded != nil:
		return Errorf(Invalid, "data and data_base64 exclude each other")
	case encoded != nil && string(encoded) != "null":
		if err := json.Unmarshal(encoded, &e.Data); err != nil {
			return Errorf(Invalid, "data_base64 is not a text in base64")
		}
	case data == nil:
	case e.JSONData():
		e.Data = bytes.Clone(data)
		if e.DataContentType == "" {
			e.DataContentType = contentJSON
		}
	case data[0] == '"':
		var text string
		if err := json.Unmarshal(data, &text); err != nil {
			return err
		}
		e.Data = []byte(text)
	case string(data) != "null":
		e.Data = bytes.Clone(data)
	}
	return nil
}
