package qemu

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// tscParameters tell a kernel how fast its time stamp counter runs, which under
// TCG is the host's. A microvm has no clock to measure it by but the PIT, which
// fails on a busy host, and the kernel then waits for ever for a timer.
func tscParameters() []string {
	text, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return nil
	}
	if khz := tscRate(string(text)); khz > 0 {
		return []string{"tsc_early_khz=" + strconv.Itoa(khz)}
	}
	return nil
}

// tscRate finds the counter's rate in kHz in the text of /proc/cpuinfo: the
// nominal frequency in the model's name ("@ 2.70GHz"), else the present one; 0
// where there is neither.
func tscRate(cpuinfo string) int {
	var present float64
	for line := range strings.Lines(cpuinfo) {
		key, value, _ := strings.Cut(line, ":")
		value = strings.TrimSpace(value)
		switch strings.TrimSpace(key) {
		case "model name":
			var ghz float64
			if _, at, ok := strings.Cut(value, "@ "); ok {
				if n, _ := fmt.Sscanf(at, "%fGHz", &ghz); n == 1 && ghz > 0.1 && ghz < 100 {
					return int(ghz*1e6 + 0.5)
				}
			}
		case "cpu MHz":
			if mhz, err := strconv.ParseFloat(value, 64); err == nil && present == 0 && mhz > 100 && mhz < 1e5 {
				present = mhz
			}
		}
	}
	return int(present*1000 + 0.5)
}
