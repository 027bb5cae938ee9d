package volume_test

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/mayfly-run/mayfly"
	"github.com/mayfly-run/mayfly/volume"
	"github.com/mayfly-run/mayfly/volume/volumetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t *testing.T, data string) *volume.Volumes {
	t.Helper()
	vs, err := volume.Open(data, volume.Options{AllowBind: []string{"/tmp"}})
	if err != nil {
		t.Fatal(err)
	}
	return vs
}

func TestLocal(t *testing.T) {
	volumetest.Run(t, volumetest.Bed{
		Open: open, Sizes: true, Owners: true, Limit: 8 << 20, Snapshots: true,
		Define: func(*testing.T, string) mayfly.Volume { return mayfly.Volume{} },
	})
}

func TestLocalWithSize(t *testing.T) {
	volumetest.Run(t, volumetest.Bed{
		Open: open, Sizes: true, Owners: true, Limit: 8 << 20, Snapshots: true,
		Define: func(*testing.T, string) mayfly.Volume { return mayfly.Volume{Size: 16 << 20} },
	})
}

func TestTmpfs(t *testing.T) {
	volumetest.Run(t, volumetest.Bed{
		Open: open, Sizes: true, Owners: true, Limit: 8 << 20, Snapshots: true,
		Define: func(*testing.T, string) mayfly.Volume { return mayfly.Volume{Provider: mayfly.VolumeTmpfs} },
	})
}

func TestBind(t *testing.T) {
	volumetest.Run(t, volumetest.Bed{
		Open: open,
		Define: func(t *testing.T, _ string) mayfly.Volume {
			return mayfly.Volume{Provider: mayfly.VolumeBind, Source: t.TempDir()}
		},
	})
}
