// Package apiproxy stands between one client and a Kubernetes API server: it counts the client's writes, can cut it off
// after any of them, and can answer its reads and watches wrongly.
//
// The client authenticates as itself: its token is passed through. Nothing is cached, nothing is retried.
package apiproxy

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Write is one request that changes something, as the API server answered it.
type Write struct {
	Method, Path string
	DryRun       bool
	Status       int
}

func (w Write) String() string {
	dry := ""
	if w.DryRun {
		dry = " (dry run)"
	}
	return fmt.Sprintf("%s %s%s: %d", w.Method, w.Path, dry, w.Status)
}

// Faults are what the proxy does beyond passing on. Each may be nil.
type Faults struct {
	// Answer answers the request itself and returns true, or returns false.
	Answer func(w http.ResponseWriter, r *http.Request) bool
	// Cut is asked after each counted write, before the client sees the answer: true cuts the client off, until Open.
	// Writes are passed on one after the other, so that after a cut none follows.
	Cut func(n int, write Write) bool
	// Watch gets the lines of a watch and passes on what it likes; when it returns, the stream is closed.
	Watch func(out io.Writer, in io.Reader)
}

// Proxy serves on 127.0.0.1 with a certificate of its own.
type Proxy struct {
	URL string
	CA  []byte // PEM: what the client has to trust

	upstream  *url.URL
	transport *http.Transport
	counts    func(*http.Request) bool
	server    *http.Server

	requests atomic.Int64

	passing sync.Mutex // one write at a time
	mutex   sync.Mutex
	faults  Faults
	writes  []Write
	epoch   int // of connections: what began before the last Open is never passed on
	cut     bool
}

// New starts a proxy to the API server at target, which has to be signed by ca (PEM). counts says which writes count.
func New(target string, ca []byte, counts func(*http.Request) bool) (*Proxy, error) {
	upstream, err := url.Parse(target)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		return nil, fmt.Errorf("no certificate of %s", target)
	}
	certificate, pemCA, err := ownCertificate()
	if err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &Proxy{
		URL: "https://" + listener.Addr().String(), CA: pemCA, upstream: upstream, counts: counts,
		transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, MaxIdleConnsPerHost: 32, DisableCompression: true},
	}
	p.server = &http.Server{
		Handler:  p,
		ErrorLog: log.New(io.Discard, "", 0), // a killed client is no news
		// HTTP/1.1 only: one request a connection is what can be cut.
		TLSConfig:    &tls.Config{Certificates: []tls.Certificate{certificate}, NextProtos: []string{"http/1.1"}},
		TLSNextProto: map[string]func(*http.Server, *tls.Conn, http.Handler){},
	}
	go p.server.ServeTLS(listener, "", "")
	return p, nil
}

func (p *Proxy) Close() {
	p.server.Close()
	p.transport.CloseIdleConnections()
}

// Set replaces the faults; streams that are open keep theirs.
func (p *Proxy) Set(faults Faults) {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	p.faults = faults
}

// Open ends a cut and begins to count anew.
func (p *Proxy) Open() {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	p.cut, p.writes = false, nil
	p.epoch++
}

// Writes are those counted since the last Open.
func (p *Proxy) Writes() []Write {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	return append([]Write(nil), p.writes...)
}

// Requests is how many there were in all, also those that were not passed on.
func (p *Proxy) Requests() int { return int(p.requests.Load()) }

func (p *Proxy) state() (Faults, int, bool) {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	return p.faults, p.epoch, p.cut
}

func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.requests.Add(1)
	faults, epoch, cut := p.state()
	if cut {
		panic(http.ErrAbortHandler)
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	if faults.Answer != nil && faults.Answer(w, r) {
		return
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	if r.Method == http.MethodGet || r.Method == http.MethodHead {
		p.read(w, r, faults)
	} else {
		p.write(w, r, body, epoch)
	}
}

func (p *Proxy) read(w http.ResponseWriter, r *http.Request, faults Faults) {
	response, err := p.pass(r.Context(), r, nil)
	if err != nil {
		panic(http.ErrAbortHandler) // as when the API server is away
	}
	defer response.Body.Close()
	out := begin(w, response)
	watch := r.URL.Query().Get("watch")
	if response.StatusCode == http.StatusOK && (watch == "true" || watch == "1") && faults.Watch != nil {
		faults.Watch(out, response.Body)
		return
	}
	io.Copy(out, response.Body)
}

func (p *Proxy) write(w http.ResponseWriter, r *http.Request, body []byte, epoch int) {
	p.passing.Lock()
	locked := true
	unlock := func() {
		if locked {
			locked = false
			p.passing.Unlock()
		}
	}
	defer unlock()
	faults, now, cut := p.state()
	if cut || now != epoch {
		panic(http.ErrAbortHandler)
	}
	// Not the client's context: a write that has begun is done, whether or not the client lives to see it.
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	response, err := p.pass(ctx, r, body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	if p.counts == nil || p.counts(restored(r, body)) {
		write := Write{r.Method, r.URL.Path, r.URL.Query().Get("dryRun") != "", response.StatusCode}
		p.mutex.Lock()
		p.writes = append(p.writes, write)
		n := len(p.writes)
		p.mutex.Unlock()
		if faults.Cut != nil && faults.Cut(n, write) {
			p.mutex.Lock()
			p.cut = true
			p.mutex.Unlock()
			panic(http.ErrAbortHandler)
		}
	}
	unlock()
	begin(w, response).Write(answer)
}

func restored(r *http.Request, body []byte) *http.Request {
	r.Body = io.NopCloser(bytes.NewReader(body))
	return r
}

func (p *Proxy) pass(ctx context.Context, r *http.Request, body []byte) (*http.Response, error) {
	target := *r.URL
	target.Scheme, target.Host = p.upstream.Scheme, p.upstream.Host
	out, err := http.NewRequestWithContext(ctx, r.Method, target.String(), bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	out.Header = r.Header.Clone()
	out.Header.Del("Connection")
	return p.transport.RoundTrip(out)
}

// begin passes on status and headers; what is written to the result is sent at once.
func begin(w http.ResponseWriter, response *http.Response) io.Writer {
	for name, values := range response.Header {
		if name != "Connection" && name != "Content-Length" {
			w.Header()[name] = values
		}
	}
	w.WriteHeader(response.StatusCode)
	return flushing{w}
}

type flushing struct{ http.ResponseWriter }

func (f flushing) Write(b []byte) (int, error) {
	n, err := f.ResponseWriter.Write(b)
	f.ResponseWriter.(http.Flusher).Flush()
	return n, err
}

// Status answers with an API Status object.
func Status(w http.ResponseWriter, code int, reason, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	io.WriteString(w, statusJSON(code, reason, message))
}

func statusJSON(code int, reason, message string) string {
	return fmt.Sprintf(`{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":%q,"reason":%q,"code":%d}`,
		message, reason, code)
}

// IsWatch says whether a request opens a watch.
func IsWatch(r *http.Request) bool {
	watch := r.URL.Query().Get("watch")
	return r.Method == http.MethodGet && (watch == "true" || watch == "1")
}

// Under says whether a path is in a namespace.
func Under(namespace string, r *http.Request) bool {
	return strings.Contains(r.URL.Path+"/", "/namespaces/"+namespace+"/")
}

func ownCertificate() (tls.Certificate, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "apiproxy"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true, IsCA: true,
		DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return tls.Certificate{}, nil, err
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key},
		pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), nil
}
