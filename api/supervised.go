package api

import (
	"context"
	"net/http"
	"time"

	"github.com/mayfly-run/mayfly"
	client "github.com/mayfly-run/mayfly/sdk/go"
	"github.com/mayfly-run/mayfly/store"
)

// Supervised are the services: workloads whose instances are kept running. The
// reconcile package gives them.
type Supervised interface {
	ServiceReader
	ServiceChanger
}

// ServiceReader tells how services are.
type ServiceReader interface {
	// ListServices returns the services by name.
	ListServices(ctx context.Context, space string) ([]mayfly.Supervised, error)
	GetService(ctx context.Context, space, name string) (mayfly.Supervised, error)

	// WatchServices gives each service, or the one that is named, to each, and
	// again whenever it is another; one that is gone a last time, as deleted.
	WatchServices(ctx context.Context, space, name string, each func(mayfly.Supervised) error) error

	// ServiceReleases returns the releases that still exist, newest first.
	ServiceReleases(ctx context.Context, space, name string) ([]mayfly.ServiceRelease, error)
}

// ServiceChanger takes wishes, which are carried out after the answer.
type ServiceChanger interface {
	// ScaleService asks for so many replicas; nil: as many as the release says.
	ScaleService(ctx context.Context, space, name string, count *int) (mayfly.Supervised, error)

	// ScaleServiceBy is the same for a program in a container, which may do it
	// for its own workload, and for those that say so.
	ScaleServiceBy(ctx context.Context, space, name string, count *int, who mayfly.Identity) (mayfly.Supervised, error)
	RestartService(ctx context.Context, space, name string) (mayfly.Supervised, error)

	// RollbackService wants another release; 0: the last healthy one before.
	RollbackService(ctx context.Context, space, name string, release int) (mayfly.Supervised, error)
}

// News tells what happened. The store package gives it.
type News interface {
	News(f store.NewsFilter, limit int) (list []mayfly.News, next uint64)
	FollowNews(ctx context.Context, f store.NewsFilter, next uint64, each func(mayfly.News) error) error
}

// ServiceRef is the part of an operation's input that names a service.
type ServiceRef struct {
	InSpace
	Name string `path:"name" maxLength:"64" doc:"its name"`
}

// supervised registers everything about services.
func (r *router) supervised() {
	service := r.services.Supervised
	r = needing(r, service, "services")
	r.serviceWishes()
	answerWith(r, operation{id: "list-services", route: "GET /v1/services", summary: "List services by name, each with its replicas"},
		func(ctx context.Context, in *struct {
			InSpace
			InPage
		}) (client.Page[mayfly.Supervised], error) {
			items, err := service.ListServices(ctx, in.Space)
			if err != nil {
				return client.Page[mayfly.Supervised]{}, err
			}
			return page(items, in.InPage, false, func(s mayfly.Supervised) string { return s.Name }), nil
		})
	answerWith(r, operation{id: "get-service", route: "GET /v1/services/{name}", summary: "Get a service with its replicas"},
		func(ctx context.Context, in *ServiceRef) (mayfly.Supervised, error) {
			return service.GetService(ctx, in.Space, in.Name)
		})
	answerWith(r, operation{id: "list-service-releases", route: "GET /v1/services/{name}/releases", summary: "List the releases of a service, newest first"},
		func(ctx context.Context, in *ServiceRef) (client.Page[mayfly.ServiceRelease], error) {
			items, err := service.ServiceReleases(ctx, in.Space, in.Name)
			return client.Page[mayfly.ServiceRelease]{Items: listOf(items)}, err
		})
	watch := "Each message with service has one as it is then: at first, and whenever it is another. The state of one that is gone is deleted."
	streamed(r, operation{id: "watch-services", route: "GET /v1/watch/services", summary: "Watch all services", detail: watch},
		func(ctx context.Context, in *InSpace, out *stream) (nothing, error) {
			return nothing{}, service.WatchServices(ctx, in.Space, "", out.service)
		})
	streamed(r, operation{id: "watch-service", route: "GET /v1/services/{name}/watch", summary: "Watch a service", detail: watch},
		func(ctx context.Context, in *ServiceRef, out *stream) (nothing, error) {
			return nothing{}, service.WatchServices(ctx, in.Space, in.Name, out.service)
		})
}

func (o *stream) service(s mayfly.Supervised) error { return o.send(client.Message{Service: &s}) }

func (r *router) serviceWishes() {
	service := r.services.Supervised
	answerWith(r, operation{id: "scale-service", route: "PUT /v1/services/{name}/scale", summary: "Say how many replicas a service has",
		detail: "It holds for releases to come, too, until count is null: then it is what the release says, or as many as its " +
			"requests need. The replicas follow after the answer. From inside a container, it is for services of its own workload, and for " +
			"those whose scale.by names that; then count is from the release's min to its max, and what people asked for stays."},
		func(ctx context.Context, in *struct {
			ServiceRef
			Body client.ScaleRequest
		}) (mayfly.Supervised, error) {
			if who, inside := insideOf(ctx); inside {
				return service.ScaleServiceBy(ctx, in.Space, in.Name, in.Body.Count, who)
			}
			return service.ScaleService(ctx, in.Space, in.Name, in.Body.Count)
		})
	answerWith(r, operation{id: "restart-service", route: "POST /v1/services/{name}/restart", summary: "Replace all replicas of a service",
		detail: "They are replaced bit by bit, as an update does, after the answer.", status: http.StatusAccepted},
		func(ctx context.Context, in *ServiceRef) (mayfly.Supervised, error) {
			return service.RestartService(ctx, in.Space, in.Name)
		})
	answerWith(r, operation{id: "rollback-service", route: "POST /v1/services/{name}/rollback", summary: "Go back to another release of a service",
		detail: "Its replicas follow after the answer.", status: http.StatusAccepted},
		func(ctx context.Context, in *struct {
			ServiceRef
			Body client.RollbackRequest
		}) (mayfly.Supervised, error) {
			return service.RollbackService(ctx, in.Space, in.Name, in.Body.Release)
		})
}

// NewsQuery is the part of an operation's input that selects news.
type NewsQuery struct {
	InSpace
	Subject string    `query:"subject" maxLength:"64" doc:"about the workload, volume... of this name"`
	Type    string    `query:"type" maxLength:"64" doc:"such as service.ready, or a noun, such as service"`
	Since   time.Time `query:"since" doc:"nothing older"`
	Limit   int       `query:"limit" default:"1000" minimum:"0" maximum:"20000" doc:"at most the last so many of what has happened already"`
}

func (q *NewsQuery) filter() store.NewsFilter {
	return store.NewsFilter{Space: q.Space, Subject: q.Subject, Type: q.Type, Since: q.Since}
}

// news registers everything about what happened.
func (r *router) news() {
	service := r.services.News
	r = needing(r, service, "news")
	answerWith(r, operation{id: "list-news", route: "GET /v1/news", summary: "List what happened, oldest first"},
		func(ctx context.Context, in *NewsQuery) (client.Page[mayfly.News], error) {
			page := client.Page[mayfly.News]{Items: []mayfly.News{}}
			if err := r.knows(ctx, in); err != nil {
				return page, err
			}
			if in.Limit > 0 {
				list, _ := service.News(in.filter(), in.Limit)
				page.Items = append(page.Items, list...)
			}
			return page, nil
		})
	streamed(r, operation{id: "watch-news", route: "GET /v1/watch/news", summary: "Watch what happens", detail: "First what has happened already, then the rest as it happens."},
		func(ctx context.Context, in *NewsQuery, out *stream) (nothing, error) {
			if err := r.knows(ctx, in); err != nil {
				return nothing{}, err
			}
			list, next := service.News(in.filter(), in.Limit)
			if in.Limit == 0 {
				list = nil
			}
			for i := range list {
				if err := out.send(client.Message{News: &list[i]}); err != nil {
					return nothing{}, err
				}
			}
			return nothing{}, service.FollowNews(ctx, in.filter(), next, func(n mayfly.News) error {
				return out.send(client.Message{News: &n})
			})
		})
}

// knows is a NotFound error if the news are asked about something of which there
// are none, and that is not there: whoever mistypes a name would wait for ever.
func (r *router) knows(ctx context.Context, in *NewsQuery) error {
	if in.Subject == "" {
		return nil
	}
	if list, _ := r.services.News.News(store.NewsFilter{Space: in.Space, Subject: in.Subject}, 1); len(list) > 0 {
		return nil
	}
	var looks []func() error
	if s := r.services.Workloads; s != nil {
		looks = append(looks, func() error { _, err := s.GetWorkload(ctx, in.Space, in.Subject); return err })
	}
	if s := r.services.Supervised; s != nil {
		looks = append(looks, func() error { _, err := s.GetService(ctx, in.Space, in.Subject); return err })
	}
	if s := r.services.Volumes; s != nil {
		looks = append(looks, func() error { _, err := s.GetVolume(ctx, in.Space, in.Subject); return err })
	}
	if s := r.services.Configs; s != nil {
		looks = append(looks, func() error { _, err := s.GetConfig(ctx, in.Space, in.Subject, 0); return err })
	}
	for _, look := range looks {
		if look() == nil {
			return nil
		}
	}
	return mayfly.Errorf(mayfly.NotFound, "nothing is known of %q", in.Subject).WithHint("`mayfly events` lists what happened to all there is")
}
