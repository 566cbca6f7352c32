// Command wolffia builds, boots and wires small Linux systems without root.
package main

func main() {}
