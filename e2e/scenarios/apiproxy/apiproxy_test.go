package apiproxy

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// started is a proxy in front of a server that counts what reaches it, and a client that trusts the proxy.
func started(t *testing.T) (*Proxy, *http.Client, *atomic.Int32) {
	t.Helper()
	var reached atomic.Int32
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		reached.Add(1)
		if r.Header.Get("Authorization") != "Bearer x" {
			w.WriteHeader(http.StatusUnauthorized)
		}
		io.WriteString(w, "one\ntwo\nthree\n")
	}))
	t.Cleanup(server.Close)
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	proxy, err := New(server.URL, ca, func(r *http.Request) bool { return Under("ns", r) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(proxy.Close)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(proxy.CA)
	return proxy, &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}}, &reached
}

func ask(t *testing.T, client *http.Client, method, url string) (string, error) {
	t.Helper()
	request, err := http.NewRequest(method, url, strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer x")
	answer, err := client.Do(request)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	return answer.Status[:3] + " " + string(body), err
}

func TestSelfCutsAfterTheWriteThatItIsTold(t *testing.T) {
	proxy, client, reached := started(t)
	proxy.Set(Faults{Cut: func(n int, _ Write) bool { return n == 2 }})
	path := proxy.URL + "/api/v1/namespaces/ns/pods"
	if out, err := ask(t, client, "POST", path); err != nil || !strings.HasPrefix(out, "200 one") {
		t.Fatalf("%q, %v", out, err)
	}
	if _, err := ask(t, client, "POST", proxy.URL+"/api/v1/namespaces/other/pods"); err != nil {
		t.Fatalf("not counted: %v", err)
	}
	if _, err := ask(t, client, "POST", path); err == nil {
		t.Fatal("the answer of the second write came through")
	}
	before := reached.Load()
	if _, err := ask(t, client, "POST", path); err == nil || reached.Load() != before {
		t.Fatalf("passed on after the cut: %v", err)
	}
	if got := len(proxy.Writes()); got != 2 {
		t.Errorf("%d writes counted, must be 2", got)
	}
	proxy.Open()
	if out, err := ask(t, client, "GET", path); err != nil || !strings.HasPrefix(out, "200 one") {
		t.Fatalf("%q, %v", out, err)
	}
}

func TestSelfBreaksWatches(t *testing.T) {
	proxy, client, _ := started(t)
	path := proxy.URL + "/api/v1/namespaces/ns/pods?watch=true"
	for name, c := range map[string]struct {
		faults Faults
		want   string
	}{
		"gone":         {Faults{Answer: Gone}, `410 {"kind":"Status"`},
		"gone later":   {Faults{Watch: GoneAfter(1)}, "200 one\n" + `{"type":"ERROR","object":{"kind":"Status"`},
		"garbage":      {Faults{Watch: GarbageAfter(2)}, "200 one\ntwo\n\x00\xff{"},
		"torn":         {Faults{Watch: TornAfter(2)}, "200 one\ntwo\nth"},
		"late":         {Faults{Watch: Delayed(10 * time.Millisecond)}, "200 one\ntwo\nthree\n"},
		"as it should": {Faults{}, "200 one\ntwo\nthree\n"},
	} {
		proxy.Set(c.faults)
		ask(t, client, "GET", path) // each watch counts for itself
		out, err := ask(t, client, "GET", path)
		if err != nil || !bytes.HasPrefix([]byte(out), []byte(c.want)) {
			t.Errorf("%s: %q, %v", name, out, err)
		}
		if name == "torn" && out != c.want {
			t.Errorf("torn: %q", out)
		}
	}
}
