// Command wolffia builds, boots and wires small Linux systems without root.
package main

import (
	"context"
	"os"

	"wolffia/internal/cli"
	"wolffia/internal/machine/keeper"
)

func main() {
	keeper.Main()
	dir, _ := os.Getwd()
	os.Exit(cli.Main(context.Background(), cli.Env{
		Args: os.Args[1:], Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Getenv: os.Getenv, Dir: dir,
	}))
}
