// Command mayfly runs a node and talks to one.
package main

func main() {}
