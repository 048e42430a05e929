package spire

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"

	"github.com/rootvouch/rootvouch/internal/needs"
	"github.com/rootvouch/rootvouch/pins"
	"github.com/rootvouch/rootvouch/refval"
	"github.com/rootvouch/rootvouch/snp"
	"github.com/rootvouch/rootvouch/spire/admin"
	"github.com/rootvouch/rootvouch/spire/agentconf"
	"github.com/rootvouch/rootvouch/spire/conf"
	"github.com/rootvouch/rootvouch/spire/trust"
	"github.com/rootvouch/rootvouch/test/childtest"
	"github.com/rootvouch/rootvouch/test/snpdevtest"
)

var (
	domain   = spiffeid.RequireTrustDomainFromString("example.org")
	workload = spiffeid.RequireFromPath(domain, "/vm/one")
	wanted   = snp.Measurement{1, 2, 3}
)

// stock returns SPIRE's own binary, as scripts/setup builds it.
func stock(t testing.TB, name string) string {
	t.Helper()
	return needs.Part(t, "spire/1.13.3/"+name)
}

// rig is a trust domain with a stock server, our plugin, and one chip.
type rig struct {
	testing.TB
	dir     string // all its files
	sp      *snpdevtest.SP
	refval  string // accepts wanted
	address string // of the server
	admin   *admin.Client
	program admin.Executable // this test: the workload
	plugins string           // directory of our plugins
	config  conf.Server
	bundle  string // what agents believe at first: the long-lived root, unless a test has another
	nextID  byte
}

// build makes our plugins and the chip. It starts no server.
func build(t testing.TB) *rig {
	t.Helper()
	needs.Boot(t)
	stock(t, "spire-server")
	dir, err := os.MkdirTemp("", "rv") // short: a socket's path has 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	w := &rig{TB: t, dir: dir, sp: snpdevtest.New(t, time.Now()), plugins: filepath.Join(dir, "bin")}
	w.refval = snpdevtest.WriteValues(t, w.sp.Values(wanted))
	for _, name := range []string{"snp-server-plugin", "snp-agent-plugin"} {
		cmd := exec.Command("go", "build", "-o", filepath.Join(w.plugins, name), "github.com/rootvouch/rootvouch/cmd/"+name)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("building %s: %v\n%s", name, err, out)
		}
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	w.program = admin.Executable{Path: self, SHA256: fileDigest(t, self)}
	w.address = freeAddress(t)
	w.config = conf.Server{
		TrustDomain: domain, Bind: w.address, DataDir: w.path("server"), Socket: w.path("server.sock"), CADir: w.path("ca"),
		Plugin: filepath.Join(w.plugins, "snp-server-plugin"), RefvalFiles: []string{w.refval}, CollateralDir: w.sp.Collateral,
	}
	w.config.PluginSHA256 = fileDigest(t, w.config.Plugin)
	if err := trust.Init(w.config.CADir, domain, trust.Validity{RootYears: 10, UpstreamYears: 1}, time.Now(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	w.bundle = filepath.Join(w.config.CADir, trust.RootCert)
	return w
}

func (w *rig) path(name string) string { return filepath.Join(w.dir, name) }

func (w *rig) write(name string, data []byte) string {
	w.Helper()
	if err := os.WriteFile(w.path(name), data, 0o600); err != nil {
		w.Fatal(err)
	}
	return w.path(name)
}

// start runs the server until the test ends. edit may change its server.conf.
func (w *rig) start(edit func(string) string) {
	w.Helper()
	conf, err := w.config.Config()
	if err != nil {
		w.Fatal(err)
	}
	if edit != nil {
		conf = []byte(edit(string(conf)))
	}
	if err := os.MkdirAll(w.config.DataDir, 0o700); err != nil {
		w.Fatal(err)
	}
	server := run(w, stock(w, "spire-server"), "run", "-config", w.write("server.conf", conf))
	if w.admin, err = admin.Dial(w.config.Socket); err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() { w.admin.Close() })
	within(w, 30*time.Second, "server answers", func() error {
		if server.ended() {
			w.Fatalf("server ended:\n%s", server.output())
		}
		return w.admin.Ready(w.Context())
	})
}

// entries makes the entries of the VM. This test is its workload.
func (w *rig) entries(values ...refval.Values) []admin.Change {
	w.Helper()
	if len(values) == 0 {
		values = w.values(wanted)
	}
	group, err := admin.VM{Name: "one", Values: values, Workload: workload, Fetchkey: w.program}.Entries(domain)
	if err != nil {
		w.Fatal(err)
	}
	changes, err := w.admin.Apply(w.Context(), group)
	if err != nil {
		w.Fatal(err)
	}
	return changes
}

func (w *rig) values(m ...snp.Measurement) []refval.Values {
	return []refval.Values{w.sp.Values(m...)}
}

// agentID returns the ID of an agent. Our chip is emulated.
func (w *rig) agentID(rest string) spiffeid.ID {
	return spiffeid.RequireFromPath(domain, "/spire/agent/amd_sev_snp/emulated/"+w.sp.Chain.ARKDigest().String()+"/"+rest)
}

// newLaunch makes a launch of the VM with a REPORT_ID of its own.
func (w *rig) newLaunch(m snp.Measurement) string {
	w.nextID++
	return w.sp.Launch(m, snp.ReportID{w.nextID}).Serve()
}

// agent is a stock agent, as PID 1 configures it.
type agent struct {
	*process
	socket string
}

// agent starts one beside the given software AMD-SP, in a directory of its own.
func (w *rig) agent(device string, sync time.Duration) *agent {
	w.Helper()
	dir, err := os.MkdirTemp(w.dir, "a")
	if err != nil {
		w.Fatal(err)
	}
	return w.agentIn(dir, device, sync)
}

func (w *rig) agentIn(dir, device string, sync time.Duration) *agent {
	w.Helper()
	address := netip.MustParseAddrPort(w.address)
	socket, conf := filepath.Join(dir, "api.sock"), filepath.Join(dir, "agent.conf")
	text := agentconf.Agent{
		TrustDomain: domain.Name(), Host: address.Addr().String(), Port: address.Port(), DataDir: dir, Socket: socket,
		TrustBundle: w.bundle, Sync: sync,
		Attestor: agentconf.SNP{Plugin: filepath.Join(w.plugins, "snp-agent-plugin"), Device: "virtio-port", DevicePath: device},
	}.HCL()
	if err := os.WriteFile(conf, text, 0o600); err != nil {
		w.Fatal(err)
	}
	return &agent{run(w, stock(w, "spire-agent"), "run", "-config", conf), socket}
}

// ownersAgent runs the agent on the owner's side, which has attested before if it is not the
// first one, and gives the program the SPIFFE ID.
func (w *rig) ownersAgent(id spiffeid.ID, program admin.Executable, ttl time.Duration) *agent {
	w.Helper()
	path := w.path("owner.conf")
	if _, err := os.Stat(path); err != nil {
		w.ownersConf(path, id, program, ttl)
	}
	return &agent{run(w, stock(w, "spire-agent"), "run", "-config", path), w.path("owner.sock")}
}

func (w *rig) ownersConf(path string, id spiffeid.ID, program admin.Executable, ttl time.Duration) {
	w.Helper()
	alias := spiffeid.RequireFromPath(domain, admin.OwnerPath)
	group, err := admin.KMS(id, alias, program, admin.UID(uint32(os.Getuid())), ttl)
	if err != nil {
		w.Fatal(err)
	}
	if _, err := w.admin.Apply(w.Context(), group); err != nil {
		w.Fatal(err)
	}
	token, err := w.admin.JoinToken(w.Context(), alias, time.Minute)
	if err != nil {
		w.Fatal(err)
	}
	conf, err := conf.Agent{
		TrustDomain: domain, Server: w.address, DataDir: w.path("owner"), Socket: w.path("owner.sock"),
		TrustBundle: w.bundle, JoinTokenFile: w.write("token", []byte(token+"\n")),
	}.Config()
	if err != nil {
		w.Fatal(err)
	}
	if err := os.Mkdir(w.path("owner"), 0o700); err != nil {
		w.Fatal(err)
	}
	if err := os.WriteFile(path, conf, 0o600); err != nil {
		w.Fatal(err)
	}
}

// svid asks the agent for this test's SVID until there is one.
func (w *rig) svid(a *agent, limit time.Duration) (*x509svid.SVID, error) {
	end := time.Now().Add(limit)
	for {
		svid, err := fetch(w.Context(), a.socket)
		if err == nil || time.Now().After(end) || a.ended() {
			return svid, err
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func fetch(ctx context.Context, socket string) (*x509svid.SVID, error) {
	if _, err := os.Stat(socket); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	return workloadapi.FetchX509SVID(ctx, workloadapi.WithAddr("unix://"+socket))
}

// process is a child with its output, each line with the time it came.
type process struct {
	cmd  *exec.Cmd
	done chan struct{}

	mu    sync.Mutex
	lines []line
}

type line struct {
	at   time.Time
	text string
}

// run starts a child that is killed when the test ends.
func run(t testing.TB, path string, args ...string) *process {
	t.Helper()
	p := &process{cmd: childtest.Tied(exec.Command(path, args...)), done: make(chan struct{})}
	out, in, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	p.cmd.Stdout, p.cmd.Stderr = in, in
	err = p.cmd.Start()
	in.Close()
	if err != nil {
		t.Fatal(err)
	}
	go p.read(out)
	t.Cleanup(p.stop)
	return p
}

func (p *process) read(out io.ReadCloser) {
	defer out.Close()
	scanner := bufio.NewScanner(out)
	for scanner.Scan() {
		p.mu.Lock()
		p.lines = append(p.lines, line{time.Now(), scanner.Text()})
		p.mu.Unlock()
	}
	p.cmd.Wait()
	close(p.done)
}

// stop ends the child and its plugins, which end when it is gone.
func (p *process) stop() {
	p.cmd.Process.Signal(os.Interrupt)
	select {
	case <-p.done:
	case <-time.After(5 * time.Second):
		p.cmd.Process.Kill()
		<-p.done
	}
}

func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

func (p *process) output() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var b strings.Builder
	for _, l := range p.lines {
		fmt.Fprintln(&b, l.text)
	}
	return b.String()
}

// said returns the time at which the child first printed text.
func (p *process) said(text string) (time.Time, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, l := range p.lines {
		if strings.Contains(l.text, text) {
			return l.at, true
		}
	}
	return time.Time{}, false
}

func within(t testing.TB, limit time.Duration, what string, try func() error) {
	t.Helper()
	var err error
	for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if err = try(); err == nil {
			return
		}
	}
	t.Fatalf("%s: not within %v: %v", what, limit, err)
}

func freeAddress(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func fileDigest(t testing.TB, path string) pins.Digest {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		t.Fatal(err)
	}
	return pins.Digest(h.Sum(nil))
}
