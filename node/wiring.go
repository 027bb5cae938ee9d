package node

import (
	"encoding/json"
	"maps"
	"net"
	"strconv"
	"strings"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/container"
)

// The files of /run/mayfly that say what a container requires.
const (
	endpointsName = "endpoints.json"
	envName       = container.EnvName
	owedName      = "." + endpointsName // as on_change was last done for, while it is to be done again
)

// wiring is what a container is told of what it requires.
type wiring struct {
	env  map[string]string
	sets map[string][]wired // by name of the requirement
}

// wired is an endpoint as a consumer sees it.
type wired struct {
	ID       string            `json:"id"`
	Service  string            `json:"service"`
	Name     string            `json:"name"`
	Protocol string            `json:"protocol"`
	Host     string            `json:"host"`
	Port     uint16            `json:"port"`
	URL      string            `json:"url"`
	Zone     string            `json:"zone,omitempty"`
	Tags     map[string]string `json:"tags,omitempty"`
}

func newWiring() *wiring {
	return &wiring{env: make(map[string]string), sets: make(map[string][]wired)}
}

// add tells of one requirement. Variables of the first endpoint have the plain
// names, and where several are asked for each has a number besides:
//
//	DB_HOST DB_PORT DB_URL DB_ENDPOINTS=HOST:PORT,HOST:PORT  DB_1_HOST DB_1_PORT DB_1_URL DB_2_HOST...
func (w *wiring) add(req *mayfly.Require, endpoints []mayfly.Endpoint) {
	prefix := variable(req.Name)
	list := make([]wired, 0, len(endpoints))
	var addresses []string
	for i, e := range endpoints {
		x := wired{ID: e.ID, Service: e.Service, Name: e.Name, Protocol: e.Protocol, Host: e.Address, Port: e.Port, URL: urlOf(e), Zone: e.Zone, Tags: e.Tags}
		list = append(list, x)
		addresses = append(addresses, net.JoinHostPort(x.Host, strconv.Itoa(int(x.Port))))
		if i == 0 {
			w.variables(prefix, x)
		}
		if req.All {
			w.variables(prefix+"_"+strconv.Itoa(i+1), x)
		}
	}
	w.env[prefix+"_ENDPOINTS"] = strings.Join(addresses, ",")
	w.sets[req.Name] = list
}

func (w *wiring) variables(prefix string, x wired) {
	w.env[prefix+"_HOST"] = x.Host
	w.env[prefix+"_PORT"] = strconv.Itoa(int(x.Port))
	w.env[prefix+"_URL"] = x.URL
}

// variable is a name as it begins the names of variables.
func variable(name string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
			return r
		}
		return '_'
	}, strings.ToUpper(name))
}

func urlOf(e mayfly.Endpoint) string {
	return e.Protocol + "://" + net.JoinHostPort(e.Address, strconv.Itoa(int(e.Port)))
}

// environ is env with the variables in place of those of the same name, but for
// those in own: what a workload says itself goes before.
func (w *wiring) environ(env []string, own map[string]string) []string {
	over := maps.Clone(w.env)
	for name := range own {
		delete(over, name)
	}
	return environment(env, over)
}

// endpoints is the content of endpoints.json. It is the same for the same
// endpoints.
func (w *wiring) endpoints() []byte {
	text, err := json.MarshalIndent(w.sets, "", "  ")
	if err != nil {
		panic(err) // our own types
	}
	return append(text, '\n')
}
