// Package sdk holds the clients for Python and JavaScript as they are given to
// handlers: each finds the one of its language without bringing it along.
package sdk

import (
	"embed"
	"io/fs"
)

//go:embed python/mayfly/*.py
var python embed.FS

//go:embed js/index.js js/index.d.ts js/package.json js/lib/*.js
var javaScript embed.FS

// Python is the package mayfly for Python: the folder that is named so.
func Python() fs.FS { return below(python, "python/mayfly") }

// JavaScript is the package mayfly for node: what node_modules/mayfly holds.
func JavaScript() fs.FS { return below(javaScript, "js") }

func below(f fs.FS, dir string) fs.FS {
	sub, err := fs.Sub(f, dir)
	if err != nil {
		panic(err) // the names are ours
	}
	return sub
}
