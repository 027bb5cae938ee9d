package explain

import (
	"cmp"
	"fmt"

	"github.com/mayfly-run/mayfly"
)

// Volume explains a volume. news is what happened to it, oldest first.
func Volume(v mayfly.Volume, news []mayfly.News) mayfly.Explanation {
	x := mayfly.Explanation{Kind: "volume", Name: v.Name, Space: v.Space, State: "there", Since: v.Created, News: news}
	switch {
	case v.Leaving:
		x.State, x.Why = "leaving", append(x.Why, "It is being removed.")
	case v.Node == "":
		x.State, x.Why = "defined", append(x.Why, "It is made when a container needs it.")
	default:
		x.Why = append(x.Why, fmt.Sprintf("It lies on node %s, by provider %s.", v.Node, cmp.Or(v.Provider, mayfly.VolumeLocal)))
	}
	switch {
	case v.Shared:
		x.Why = append(x.Why, "Several containers may write to it at once.")
	case v.Writer != "":
		x.Why = append(x.Why, fmt.Sprintf("%s writes to it, and no other may.", cmp.Or(v.WriterName, v.Writer)))
	}
	if !v.Events.On() {
		return x
	}
	x.Why = append(x.Why, fmt.Sprintf("Files that come into it are told of by events of type %s.", v.Events.Type))
	for i := len(news) - 1; i >= 0; i-- {
		if news[i].Type == "volume.watched" {
			break
		}
		if news[i].Type == "volume.unwatched" {
			x.Why = append([]string{"Not all files that come into it are told of: " + news[i].Text + "."}, x.Why...)
			break
		}
	}
	return x
}
