// crash: kills real sidecars at every step of a message's life, on the stage that scripts/crash builds.
//
//	crash run FLAGS     one round of the matrix (round.go); a line of JSON with what it did goes to -out
//	crash agent FLAGS   one agent (agent.go); the round starts one in each pod
//	crash sum ROUNDS    the table and the verdict of several rounds (report.go)
//
// The histories are judged by another program that sees nothing else (messages/judge).
package main

import (
	"fmt"
	"os"
	"syscall"
	"time"
	"unsafe"
)

func main() {
	verb := ""
	if len(os.Args) > 1 {
		verb = os.Args[1]
	}
	var err error
	switch verb {
	case "run":
		err = runRound(os.Args[2:])
	case "agent":
		err = runAgent(os.Args[2:])
	case "sum":
		err = sum(os.Args[2:])
	default:
		err = fmt.Errorf("usage: crash run|agent|sum")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "crash:", err)
		os.Exit(1)
	}
}

// now is CLOCK_MONOTONIC in seconds, the same for all processes of this machine.
func now() float64 {
	var t syscall.Timespec
	const clockMonotonic = 1
	_, _, _ = syscall.Syscall(syscall.SYS_CLOCK_GETTIME, clockMonotonic, uintptr(unsafe.Pointer(&t)), 0)
	return float64(t.Sec) + float64(t.Nsec)/1e9
}

const pollPause = 5 * time.Millisecond

// until waits for a condition; false: it did not come true in time.
func until(limit time.Duration, condition func() bool) bool {
	for deadline := time.Now().Add(limit); !condition(); time.Sleep(pollPause) {
		if time.Now().After(deadline) {
			return false
		}
	}
	return true
}
