// Package container makes and keeps the containers of this machine.
package container
