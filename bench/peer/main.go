// Command peer runs in the machines of a soak test: one end of a stream.
//
//	peer serve :7000
//	peer send bert:7000 SEED BYTES RATE
package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"

	"wolffia/bench/stream"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "peer:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) == 2 && args[0] == "serve":
		return serve(args[1])
	case len(args) == 5 && args[0] == "send":
		return send(args[1], args[2:])
	}
	return errors.New("usage: peer serve ADDRESS, or peer send ADDRESS SEED BYTES RATE")
}

func serve(addr string) error {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	fmt.Println("serving")
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			if err := stream.Answer(c); err != nil {
				fmt.Println(c.RemoteAddr(), err)
			}
		}()
	}
}

// send tells a line with the number of bytes each second.
func send(addr string, numbers []string) error {
	var n [3]int64
	for i, s := range numbers {
		var err error
		if n[i], err = strconv.ParseInt(s, 10, 64); err != nil {
			return err
		}
	}
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return err
	}
	received, err := stream.Run(c, stream.Options{
		Seed: uint64(n[0]), Bytes: n[1], Rate: n[2],
		Progress: func(received int64) { fmt.Println(received) },
	})
	fmt.Println(received)
	return err
}
