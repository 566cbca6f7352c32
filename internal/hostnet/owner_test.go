package hostnet

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

// ownJob is what a process does that is killed while it owns a plan.
type ownJob struct {
	Plan    Plan
	Options Options
	KillAt  int // the change before which it dies; 0 means when all are made
}

// ownAndDie applies a plan and is killed, as by SIGKILL from outside.
func ownAndDie(job string) error {
	var j ownJob
	if err := json.Unmarshal([]byte(job), &j); err != nil {
		return err
	}
	n := 0
	live, err := apply(j.Plan, j.Options, func(string) error {
		if n++; n == j.KillAt {
			return syscall.Kill(os.Getpid(), syscall.SIGKILL)
		}
		return nil
	})
	if err != nil {
		return err
	}
	// The lock of the journal lasts until the process is dead, even if nothing
	// else uses it any more.
	defer live.Close()
	if j.KillAt == 0 {
		return syscall.Kill(os.Getpid(), syscall.SIGKILL)
	}
	return errors.New("it was not killed")
}

// killed has a process apply a plan and die at a change. It says whether there
// was such a change.
func killed(t *testing.T, p Plan, o Options, at int) bool {
	t.Helper()
	job, err := json.Marshal(ownJob{p, o, at})
	must(t, err)
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), owner+"="+string(job))
	out, err := cmd.CombinedOutput()
	if strings.Contains(string(out), "it was not killed") {
		return false
	}
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("%v\n%s", err, out)
	}
	return true
}
