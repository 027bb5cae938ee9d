// Package build makes images from source: stacks, which are base images with a
// language in them, and code, which becomes one layer on its stack.
//
// A stack is described in a few lines (stacks/*.yaml) and made once by
// mmdebstrap from the Debian packages that the machine's own apt would fetch;
// the image carries the hash of its description, and a description that has
// not changed is not built again. The stack "host" is made of nothing: it has
// the directories and the public files of /etc that programs ask for, and a
// label that tells the node to mount the machine's own /usr there, read-only.
//
// The code of a function travels as a tar (see Tar) and becomes a layer under
// /app (see Code). For the protocol "handler" a loader comes with it: a small
// program in the function's language that imports the code, listens on
// 127.0.0.1:$PORT and calls the handler for each request.
//
// What this package makes is reproducible: the same code on the same stack
// gives the same digest. It runs nothing but mmdebstrap, and never the user's
// code.
package build

// Labels that images made here carry in their configuration.
const (
	// LabelHostMounts names host directories, separated by spaces, that the
	// node mounts read-only at the same place in every container of the image.
	// To be read by HostMounts, as any image may carry it.
	LabelHostMounts = "run.mayfly.host-mounts"
	// LabelStack is the hash of the description that a stack was made from.
	LabelStack = "run.mayfly.stack"
	// LabelLoader and a language's name give the path of its interpreter in
	// the image, as in run.mayfly.loader.python=/usr/bin/python3.
	LabelLoader = "run.mayfly.loader."
	// LabelCode is "true" in the image of a function's code.
	LabelCode = "run.mayfly.code"
)

// AppDir is where the code of a function lies in its image. It is the working
// directory of what runs there.
const AppDir = "/app"
