package apiproxy

import (
	"bufio"
	"io"
	"net/http"
	"time"
)

const mostLineBytes = 16 << 20

// Gone answers every watch with 410 before it begins.
func Gone(w http.ResponseWriter, r *http.Request) bool {
	if !IsWatch(r) {
		return false
	}
	Status(w, http.StatusGone, "Expired", "too old resource version: 1 (2)")
	return true
}

// GoneAfter passes on n events of each watch, then an event ERROR with code 410.
func GoneAfter(n int) func(io.Writer, io.Reader) {
	return after(n, `{"type":"ERROR","object":`+statusJSON(http.StatusGone, "Expired", "too old resource version: 1 (2)")+"}\n")
}

// GarbageAfter passes on n events of each watch, then bytes that are no JSON.
func GarbageAfter(n int) func(io.Writer, io.Reader) {
	return after(n, "\x00\xff{\"type\":\"ADDED\",\"object\":{\"kind\":\"Pod\",\"metadata\":{\"name\":}}\n<html>502 Bad Gateway</html>\n")
}

// TornAfter passes on n events of each watch and half of the next.
func TornAfter(n int) func(io.Writer, io.Reader) {
	return func(out io.Writer, in io.Reader) {
		lines := reader(in)
		for passed := 0; lines.Scan(); passed++ {
			line := lines.Bytes()
			if passed == n {
				out.Write(line[:len(line)/2])
				return
			}
			if !pass(out, line) {
				return
			}
		}
	}
}

// Delayed passes everything on, that much later.
func Delayed(delay time.Duration) func(io.Writer, io.Reader) {
	return func(out io.Writer, in io.Reader) {
		type late struct {
			due  time.Time
			line []byte
		}
		queue := make(chan late, 100_000)
		go func() {
			defer close(queue)
			for lines := reader(in); lines.Scan(); {
				queue <- late{time.Now().Add(delay), append([]byte(nil), lines.Bytes()...)}
			}
		}()
		for one := range queue {
			time.Sleep(time.Until(one.due))
			if !pass(out, one.line) {
				return // the client is gone; its request's context ends the reader above
			}
		}
	}
}

func after(n int, last string) func(io.Writer, io.Reader) {
	return func(out io.Writer, in io.Reader) {
		lines := reader(in)
		for passed := 0; passed < n; passed++ {
			if !lines.Scan() || !pass(out, lines.Bytes()) {
				return
			}
		}
		io.WriteString(out, last)
	}
}

func reader(in io.Reader) *bufio.Scanner {
	lines := bufio.NewScanner(in)
	lines.Buffer(make([]byte, 64<<10), mostLineBytes)
	return lines
}

func pass(out io.Writer, line []byte) bool {
	_, err := out.Write(append(line[:len(line):len(line)], '\n'))
	return err == nil
}
