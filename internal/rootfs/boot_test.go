package rootfs

import (
	"bufio"
	"testing"
)

var _ = bufio.NewReader
var _ testing.T
