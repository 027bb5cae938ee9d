package build

import (
	"regexp"

	"github.com/mayfly-run/mayfly"
)

// Unreached looks in the last lines of a build's log for what is said when nothing
// can be fetched, and returns that and what to do about it; both are empty where the
// build failed of something else.
func Unreached(b *mayfly.Build, log []string) (why, hint string) {
	if b == nil || !b.Fetch {
		return "", ""
	}
	said := regexp.MustCompile(`Name or service not known|Temporary failure in name resolution|No address associated with hostname|no such host|server misbehaving` +
		`|(?:EAI_AGAIN|ENOTFOUND|ECONNREFUSED|ECONNRESET|ETIMEDOUT|EHOSTUNREACH|ENETUNREACH)\b` +
		`|[Nn]etwork is unreachable|[Nn]o route to host|[Cc]onnection refused|[Cc]onnection timed out|i/o timeout|ConnectTimeoutError|Max retries exceeded`)
	for _, line := range log {
		if why = said.FindString(line); why != "" {
			break
		}
	}
	if why == "" {
		return "", ""
	}
	switch b.Recipe {
	case recipePip:
		return why, "start mayfly up where there is a network, or with PIP_INDEX_URL or HTTPS_PROXY set to a way there; " +
			"or put what pip downloads (pip download) beside the code and list it by path, as ./NAME.whl"
	case recipeNpm:
		return why, "start mayfly up where there is a network, or with NPM_CONFIG_REGISTRY or HTTPS_PROXY set to a way there; " +
			"or put what npm packs (npm pack) beside the code and depend on it as file:NAME.tgz"
	}
	return why, "start mayfly up where there is a network, or with GOPROXY or HTTPS_PROXY set to a way there; or send the modules along: go mod vendor"
}
