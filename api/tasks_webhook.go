package api

import (
	"net/http"
	"net/url"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/queue"
	client "github.com/mayfly-run/mayfly/sdk/go"
)

// headerWebhook is the id of a message in Standard Webhooks: the same for each
// time that it is sent.
const headerWebhook = "Webhook-Id"

// taskWebhook registers the way in for those who can only send their own body.
func (r *router) taskWebhook() {
	text := &huma.Schema{Type: huma.TypeString}
	params := []*huma.Param{
		{Name: "name", In: "path", Required: true, Schema: text, Description: "name of a workload"},
		{Name: "space", In: "query", Schema: text, Description: "the space"},
		{Name: "priority", In: "query", Schema: &huma.Schema{Type: huma.TypeInteger}, Description: "0 to 9, 9 first"},
		{Name: "delay", In: "query", Schema: text, Description: "as in 90s or 2h"},
		{Name: "timeout", In: "query", Schema: text, Description: "of one attempt, as in 30s"},
		{Name: "retries", In: "query", Schema: &huma.Schema{Type: huma.TypeInteger}, Description: "attempts after the first; 0 for none, in place of the workload's"},
		{Name: "key", In: "query", Schema: text, Description: "the same key is the same task"},
		{Name: "label", In: "query", Schema: text, Description: "NAME=VALUE; again for more"},
		{Name: "callback", In: "query", Schema: text, Description: "URL that is told of the end"},
		{Name: client.HeaderIdempotency, In: "header", Schema: text, Description: "the key, where the query has none"},
		{Name: headerWebhook, In: "header", Schema: text, Description: "the key, where there is no other"},
	}
	o := operation{id: "task-webhook", route: "POST /v1/workloads/{name}/tasks/webhook", summary: "Submit a task whose payload is the body",
		detail: "For senders whose requests are what they are. A function gets the body, and of the headers Content-*, Webhook-*, Ce-* and X-*.",
		body: &huma.RequestBody{Content: map[string]*huma.MediaType{
			"application/octet-stream": {Schema: &huma.Schema{Type: huma.TypeString, Format: "binary"}},
		}}}
	r.raw(o, []string{http.MethodPost}, params, map[string]*huma.Response{"202": {
		Description: "the task is on disk",
		Content:     map[string]*huma.MediaType{"application/json": {Schema: r.schema(reflect.TypeFor[client.AcceptedTask]())}},
	}}, r.serveWebhook)
}

func (r *router) serveWebhook(w http.ResponseWriter, req *http.Request) {
	answer, err := r.webhook(w, req)
	if err != nil {
		r.refuse(w, req, err)
		return
	}
	w.Header().Set(client.HeaderRun, answer.ID)
	writeJSON(w, http.StatusAccepted, answer)
}

func (r *router) webhook(w http.ResponseWriter, req *http.Request) (answer client.AcceptedTask, err error) {
	if err := need(r.services.Tasks, "tasks"); err != nil {
		return answer, err
	}
	sub, err := webhookSubmission(req.URL.Query())
	if err != nil {
		return answer, err
	}
	sub.Workload = req.PathValue("name")
	sub.Request = queue.RequestOf("/", req.Header)
	for _, header := range []string{client.HeaderIdempotency, headerWebhook} {
		if sub.Key == "" {
			sub.Key = req.Header.Get(header)
		}
	}
	if err := r.payloadOf(w, req, &sub); err != nil {
		return answer, err
	}
	made, err := r.submitAll(req.Context(), []mayfly.Submission{sub})
	if err != nil {
		if sub.PayloadRef != "" {
			r.services.Tasks.DropPayload(sub.Space, sub.PayloadRef)
		}
		return answer, err
	}
	return client.AcceptedTask{ID: made.Tasks[0].Task.ID, Created: made.Tasks[0].Created}, nil
}

// webhookSubmission reads everything but the body.
func webhookSubmission(query url.Values) (sub mayfly.Submission, err error) {
	sub.Space = mayfly.DefaultSpace
	for name, values := range query {
		if len(values) > 1 && name != "label" {
			return sub, mayfly.Errorf(mayfly.Invalid, "query.%s: it is here %d times", name, len(values))
		}
		value := values[0]
		switch name {
		case "space":
			sub.Space = value
			err = mayfly.CheckName("space", value)
		case "priority":
			sub.Priority, err = strconv.Atoi(value)
		case "retries":
			if sub.Retries.Max, err = strconv.Atoi(value); value == "0" {
				sub.Retries.Max = -1 // 0 would be the workload's
			}
		case "delay":
			var delay time.Duration
			delay, err = parseDuration(name, value)
			sub.NotBefore = time.Now().Add(delay)
		case "timeout":
			sub.Timeout, err = parseDuration(name, value)
		case "key":
			sub.Key = value
		case "callback":
			sub.Callback = value
		case "label":
			sub.Labels, err = parseLabels(values)
		default:
			err = mayfly.Errorf(mayfly.Invalid, "unknown query parameter")
		}
		if err != nil {
			return sub, mayfly.Errorf(mayfly.Invalid, "query.%s: %w", name, err)
		}
	}
	return sub, nil
}

// parseLabels reads NAME=VALUE, as often as it is there.
func parseLabels(texts []string) (map[string]string, error) {
	if len(texts) == 0 {
		return nil, nil
	}
	labels := make(map[string]string, len(texts))
	for _, text := range texts {
		name, value, ok := strings.Cut(text, "=")
		if !ok || name == "" {
			return nil, mayfly.Errorf(mayfly.Invalid, "label %q is not NAME=VALUE", text)
		}
		labels[name] = value
	}
	return labels, nil
}
