package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	logMiB     = 12
	upLimit    = 20 * time.Second
	endLimit   = 30 * time.Second // of a drain, too
	agentLimit = 90 * time.Second // for one send whose outcome is open, among stopped sidecars
)

// pod is one pod as a sidecar sees it: a supervisor and its engine in a network namespace, a tmpfs for the log, a folder
// that they share with the agent. This is also its kubelet: a container that ends is started again, until it is to end.
type pod struct {
	stage     *stage
	name      string
	peer      *pod
	uid, logs int // numbers of the present ones
	agent     *agentProcess

	mu      sync.Mutex
	wanted  bool
	running *exec.Cmd
	ended   chan struct{} // closed when nothing runs any more
}

func (p *pod) dir() string    { return filepath.Join(p.stage.dir, "pods", p.name) }
func (p *pod) log() string    { return filepath.Join(p.dir(), "log") }
func (p *pod) points() string { return filepath.Join(p.stage.dir, "points", p.name) }
func (p *pod) socket() string { return filepath.Join(p.dir(), "agent.sock") }

// id changes with the log: attempts are counted in it.
func (p *pod) id() string { return fmt.Sprintf("%s/u%d/l%d", p.name, p.uid, p.logs) }

// begin makes what a new pod finds: an empty log.
func (p *pod) begin() error { return p.beginWith(logMiB) }

func (p *pod) beginWith(logMiB int) error {
	for _, dir := range []string{p.log(), p.points()} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	for _, name := range []string{"armed", "taken", "next"} {
		_ = os.Remove(filepath.Join(p.points(), name)) // most are not there
	}
	_ = os.Remove(p.socket())
	size := fmt.Sprintf("mode=755,size=%dm", logMiB)
	if err := syscall.Mount("log", p.log(), "tmpfs", 0, size); err != nil {
		return fmt.Errorf("%s: mount: %w", p.name, err)
	}
	p.logs++
	p.mu.Lock()
	p.wanted, p.ended = true, make(chan struct{})
	p.mu.Unlock()
	if err := p.start(); err != nil {
		return err
	}
	if err := p.up(); err != nil {
		return err
	}
	if p.peer == nil {
		return nil // the coordinator has no agent
	}
	var err error
	p.agent, err = p.startAgent()
	return err
}

func (p *pod) start() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.wanted {
		close(p.ended)
		return nil
	}
	cmd := exec.Command("nsenter", "--net=/run/netns/"+p.name, p.stage.sidecar)
	cmd.Env = append(p.stage.environment(p), fmt.Sprintf("CFN_POD_UID=uid-%s-%d", p.name, p.uid))
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // the container: supervisor and engine
	stderr, err := os.OpenFile(p.dir()+".stderr", os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	defer stderr.Close()
	cmd.Stderr = stderr
	if err := cmd.Start(); err != nil {
		return err
	}
	p.running = cmd
	go func() {
		_ = cmd.Wait() // killed, mostly
		// What a killed supervisor leaves would have died with its pid namespace.
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		if err := p.start(); err != nil {
			p.stage.fail("%s can't be started again: %v", p.name, err)
		}
	}()
	return nil
}

// up: the engine answers and knows its coordinator, thus all the others.
func (p *pod) up() error {
	c := &client{path: p.socket()}
	defer c.close()
	if !until(upLimit, func() bool {
		said, err := c.call(request{"op": "hello"}, time.Second)
		return err == nil && said.Connected
	}) {
		return fmt.Errorf("%s does not come up", p.id())
	}
	return nil
}

// engine is the process that does all the work; 0: there is none just now.
func (p *pod) engine() int {
	p.mu.Lock()
	supervisor := p.running.Process.Pid
	p.mu.Unlock()
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, name := range stats {
		text, err := os.ReadFile(name)
		if err != nil {
			continue // it has ended meanwhile
		}
		// PID (NAME) STATE PPID
		field := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
		if field[1] == strconv.Itoa(supervisor) && field[0] != "Z" {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(name)))
			return pid
		}
	}
	return 0
}

// signalEngine, also where one is just being started.
func (p *pod) signalEngine(signal syscall.Signal) (int, error) {
	pid := 0
	if !until(upLimit, func() bool {
		pid = p.engine()
		return pid != 0 && syscall.Kill(pid, signal) == nil
	}) {
		return 0, fmt.Errorf("%s has no engine", p.id())
	}
	return pid, nil
}

// link takes the pod from the network, or puts it back.
func (p *pod) link(state string) error {
	said, err := exec.Command("ip", "link", "set", "v"+strings.TrimPrefix(p.name, "worker-"), state).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: link %s: %w: %s", p.name, state, err, said)
	}
	return nil
}

// end takes the pod away, its log included, and writes that down.
func (p *pod) end(signal syscall.Signal) error {
	began := now()
	if err := p.halt(signal); err != nil {
		return err
	}
	return p.stage.fact("%s %s driver %.6f L - %.6f", p.name, p.id(), now(), began)
}

// replace it by one of another UID.
func (p *pod) replace(signal syscall.Signal, logMiB int) error {
	if err := p.end(signal); err != nil {
		return err
	}
	p.uid++
	return p.beginWith(logMiB)
}

// halt: by SIGTERM it may drain, else it is killed. Its agent ends first, as in a pod.
func (p *pod) halt(signal syscall.Signal) error {
	if p.agent != nil {
		p.agent.kill()
		p.agent = nil
	}
	p.mu.Lock()
	if p.running == nil {
		p.mu.Unlock()
		return nil
	}
	p.wanted = false
	group := -p.running.Process.Pid
	if signal == syscall.SIGTERM {
		group = -group // the supervisor tells the engine
	}
	_ = syscall.Kill(group, signal)
	ended := p.ended
	p.mu.Unlock()
	select {
	case <-ended:
	case <-time.After(endLimit):
		return fmt.Errorf("%s does not end", p.id())
	}
	if !until(endLimit, func() bool { return syscall.Unmount(p.log(), 0) == nil }) {
		return fmt.Errorf("%s: its log can't be unmounted", p.id())
	}
	return nil
}

// stats of the mailbox; an error: it can't be asked now.
func (p *pod) stats() (answer, error) {
	c := &client{path: p.socket()}
	defer c.close()
	return c.call(request{"op": "stats"}, time.Second)
}

// agentProcess is an agent of ours (agent.go) beside the pod's sidecar.
type agentProcess struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out chan string
}

func (p *pod) startAgent() (*agentProcess, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	a := &agentProcess{out: make(chan string, 1)}
	a.cmd = exec.Command(self, "agent", "-name", p.name, "-pod", p.id(), "-peer", p.peer.name, "-socket", p.socket(),
		"-history", filepath.Join(p.stage.histories(), strings.ReplaceAll(p.id(), "/", ".")))
	a.cmd.Stderr = os.Stderr
	if a.in, err = a.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := a.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := a.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		for lines := bufio.NewScanner(out); lines.Scan(); {
			a.out <- lines.Text()
		}
		close(a.out)
	}()
	return a, nil
}

var errAgent = errors.New("an agent does not answer its master")

// tell waits until it is so.
func (a *agentProcess) tell(what string) (string, error) {
	if _, err := io.WriteString(a.in, what+"\n"); err != nil {
		return "", fmt.Errorf("%w: %w", errAgent, err)
	}
	select {
	case said, ok := <-a.out:
		if !ok {
			return "", errAgent
		}
		return said, nil
	case <-time.After(agentLimit):
		return "", errAgent
	}
}

func (a *agentProcess) kill() {
	_ = a.cmd.Process.Kill()
	for range a.out { // Wait closes the pipe, so all is read before
	}
	_ = a.cmd.Wait()
}
