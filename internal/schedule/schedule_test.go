package schedule

import (
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// policy is what a line of /proc/PID/stat says (proc_pid_stat(5), field 41).
func policy(t *testing.T, stat []byte) int {
	t.Helper()
	_, fields, _ := strings.Cut(string(stat), ") ")
	p, err := strconv.Atoi(strings.Fields(fields)[41-3])
	if err != nil {
		t.Fatalf("%q: %v", stat, err)
	}
	return p
}

func childsPolicy(t *testing.T) int {
	t.Helper()
	out, err := exec.Command("cat", "/proc/self/stat").Output()
	if err != nil {
		t.Fatal(err)
	}
	return policy(t, out)
}

// TestBatch has the kernel tell the policies of all threads, of those that are made
// later too, and of the processes that they start.
func TestBatch(t *testing.T) {
	if got := childsPolicy(t); got != policyOther {
		t.Fatalf("before, it is %d", got)
	}
	for range 2 { // there is nothing to do for the second
		Batch()
	}
	var locked, done sync.WaitGroup
	looked := make(chan struct{})
	for range 8 {
		locked.Add(1)
		done.Go(func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			locked.Done()
			<-looked
		})
	}
	locked.Wait()
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil || len(threads) < 8 {
		t.Fatalf("%d threads, %v", len(threads), err)
	}
	for _, thread := range threads {
		stat, err := os.ReadFile("/proc/self/task/" + thread.Name() + "/stat")
		if err != nil {
			t.Fatal(err)
		}
		if got := policy(t, stat); got != policyBatch {
			t.Errorf("thread %s has %d", thread.Name(), got)
		}
	}
	close(looked)
	done.Wait()
	if got := childsPolicy(t); got != policyBatch {
		t.Errorf("a process of it has %d", got)
	}
	done.Go(func() {
		runtime.LockOSThread() // and the thread ends with the goroutine
		Ordinary()
		if got := childsPolicy(t); got != policyOther {
			t.Errorf("a process of an ordinary thread has %d", got)
		}
	})
	done.Wait()
	if got := childsPolicy(t); got != policyBatch {
		t.Errorf("after that, a process has %d", got)
	}
}
