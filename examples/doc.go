// Package examples holds no code, only the test that each example's manifest is
// valid and that its program answers, on a root made of the stack and the code
// as a deploy makes it. That a node runs them is for the end-to-end tests.
package examples
