package server

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/spire-plugin-sdk/pluginsdk"
	"github.com/spiffe/spire-plugin-sdk/plugintest"
	nodeattestorv1 "github.com/spiffe/spire-plugin-sdk/proto/spire/plugin/server/nodeattestor/v1"
	configv1 "github.com/spiffe/spire-plugin-sdk/proto/spire/service/common/config/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/rootvouch/rootvouch/appraise"
	"github.com/rootvouch/rootvouch/evidence"
	"github.com/rootvouch/rootvouch/refval"
	"github.com/rootvouch/rootvouch/snp"
	"github.com/rootvouch/rootvouch/spire/nodeattest"
	"github.com/rootvouch/rootvouch/test/snpdevtest"
)

// fixture is a plugin, loaded as SPIRE would, and a guest that it accepts.
type fixture struct {
	*testing.T
	sp     *snpdevtest.SP
	launch snpdevtest.Launch
	refval string // file that accepts launch
	plugin *Plugin
	client *nodeattestorv1.NodeAttestorPluginClient
	config *configv1.ConfigServiceClient
}

var (
	wanted = snp.Measurement{1, 2, 3}
	once   = snp.ReportID{7}
)

func load(t *testing.T) *fixture {
	t.Helper()
	now := time.Now()
	plugin := New(func() time.Time { return now }, rand.Reader)
	f := &fixture{T: t, plugin: plugin, sp: snpdevtest.New(t, now), client: new(nodeattestorv1.NodeAttestorPluginClient), config: new(configv1.ConfigServiceClient)}
	f.launch = f.sp.Launch(wanted, once)
	f.refval = snpdevtest.WriteValues(t, f.sp.Values(wanted))
	plugintest.ServeInBackground(t, plugintest.Config{
		PluginServer:   nodeattestorv1.NodeAttestorPluginServer(plugin),
		PluginClient:   f.client,
		ServiceServers: []pluginsdk.ServiceServer{configv1.ConfigServiceServer(plugin)},
		ServiceClients: []pluginsdk.ServiceClient{f.config},
	})
	return f
}

// data is a valid plugin_data, with further lines.
func (f *fixture) data(lines ...string) string {
	return strings.Join(append([]string{
		fmt.Sprintf("refval_files = [%q]", f.refval),
		fmt.Sprintf("collateral_dir = %q", f.sp.Collateral),
	}, lines...), "\n")
}

func (f *fixture) configure(text string) (notes []string, err error) {
	f.Helper()
	core := &configv1.CoreConfiguration{TrustDomain: "example.org"}
	_, err = f.config.Configure(f.Context(), &configv1.ConfigureRequest{CoreConfiguration: core, HclConfiguration: text})
	validated, verr := f.config.Validate(f.Context(), &configv1.ValidateRequest{CoreConfiguration: core, HclConfiguration: text})
	if verr != nil {
		f.Fatal(verr)
	}
	if validated.Valid != (err == nil) {
		f.Errorf("%q: Validate says %v, Configure says %v", text, validated, err)
	}
	return validated.Notes, err
}

func (f *fixture) mustConfigure(lines ...string) {
	f.Helper()
	if _, err := f.configure(f.data(lines...)); err != nil {
		f.Fatal(err)
	}
}

// attest does one exchange; answer makes the evidence from the nonce.
func (f *fixture) attest(answer func(evidence.Nonce) []byte) (*nodeattestorv1.AgentAttributes, error) {
	f.Helper()
	ctx, cancel := context.WithTimeout(f.Context(), 10*time.Second)
	defer cancel()
	stream, err := f.client.Attest(ctx)
	if err != nil {
		return nil, err
	}
	if err := stream.Send(&nodeattestorv1.AttestRequest{Request: &nodeattestorv1.AttestRequest_Payload{Payload: nodeattest.Hello()}}); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	// After io.EOF, Recv says how the stream ended.
	challenge, err := stream.Recv()
	if err != nil {
		return nil, err
	}
	nonce, err := nodeattest.ParseChallenge(challenge.GetChallenge())
	if err != nil {
		f.Fatal(err)
	}
	if err := stream.Send(&nodeattestorv1.AttestRequest{Request: &nodeattestorv1.AttestRequest_ChallengeResponse{ChallengeResponse: answer(nonce)}}); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	last, err := stream.Recv()
	return last.GetAgentAttributes(), err
}

// genuine answers as launch would.
func (f *fixture) genuine(launch snpdevtest.Launch) func(evidence.Nonce) []byte {
	return func(nonce evidence.Nonce) []byte {
		return f.encode(evidence.Evidence{Report: launch.Sign(evidence.NodeAttestation(nonce)), Certificates: f.sp.Chain.Certificates()})
	}
}

func (f *fixture) encode(e evidence.Evidence) []byte {
	f.Helper()
	data, err := e.Encode()
	if err != nil {
		f.Fatal(err)
	}
	return data
}

func (f *fixture) wantRefusal(answer func(evidence.Nonce) []byte, code codes.Code, want string) {
	f.Helper()
	got, err := f.attest(answer)
	if status.Code(err) != code || !strings.Contains(err.Error(), want) {
		f.Errorf("got %v, error %v, want %v with %q", got, err, code, want)
	}
}

func TestAttest(t *testing.T) {
	f := load(t)
	f.mustConfigure()
	for range 2 { // the second is a re-attestation
		got, err := f.attest(f.genuine(f.launch))
		if err != nil {
			t.Fatal(err)
		}
		if want := f.agentID(once.String()); got.SpiffeId != want || !got.CanReattest {
			t.Errorf("got %s, can re-attest %v, want %s", got.SpiffeId, got.CanReattest, want)
		}
		for _, want := range []string{
			"measurement:" + wanted.String(),
			"policy:debug:false", "policy:smt:true", "vmpl:0", "guest_svn:0", "signing_key:0",
			"chip_id:" + f.sp.ChipID.String(), "reported_tcb:microcode:84", "reported_tcb:boot_loader:10",
			"host_data:" + strings.Repeat("0", 64), "report_id:" + once.String(),
			"product:Genoa", "root_of_trust:emulated:" + f.sp.Chain.ARKDigest().String(),
		} {
			if !slices.Contains(got.SelectorValues, want) {
				t.Errorf("no selector %q among %q", want, got.SelectorValues)
			}
		}
		for _, s := range got.SelectorValues {
			if len(s) > 255 {
				t.Errorf("selector has %d bytes, SPIRE's database takes 255: %s", len(s), s)
			}
		}
	}
}

// The public attestor of this name, whose users are to find their selectors.
func TestPublicSelectors(t *testing.T) {
	f := load(t)
	f.mustConfigure()
	got, err := f.attest(f.genuine(f.launch))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range strings.Fields(`guest_svn policy:abi_minor policy:abi_major policy:smt policy:migrate_ma policy:debug
		policy:single_socket family_id image_id vmpl signature_algo current_tcb:boot_loader current_tcb:tee current_tcb:snp
		current_tcb:microcode platform_info:smt_en platform_info:tsme_en platform_info:ecc_en
		platform_info:rapl_dis platform_info:ciphertext_hiding_en signing_key mask_chip_key author_key_en measurement
		host_data id_key_digest author_key_digest report_id_ma reported_tcb:boot_loader reported_tcb:tee reported_tcb:snp
		reported_tcb:microcode chip_id committed_tcb:boot_loader committed_tcb:tee committed_tcb:snp committed_tcb:microcode
		current_build current_minor current_major committed_build committed_minor committed_major launch_tcb:boot_loader
		launch_tcb:tee launch_tcb:snp launch_tcb:microcode signing_key_hash`) {
		n := 0
		for _, s := range got.SelectorValues {
			if value, ok := strings.CutPrefix(s, name+":"); ok && value != "" && !strings.Contains(value, ":") {
				n++
			}
		}
		if n != 1 {
			t.Errorf("selector %s comes %d times, want once", name, n)
		}
	}
}

func TestFewSelectors(t *testing.T) {
	f := load(t)
	f.mustConfigure(`selectors = ["measurement", "policy", "root_of_trust"]`)
	got, err := f.attest(f.genuine(f.launch))
	if err != nil {
		t.Fatal(err)
	}
	count := map[string]int{}
	for _, s := range got.SelectorValues {
		name, _, _ := strings.Cut(s, ":")
		count[name]++
	}
	if len(count) != 3 || count["measurement"] != 1 || count["root_of_trust"] != 1 || count["policy"] != 11 {
		t.Errorf("got %q", got.SelectorValues)
	}
}

func TestRefuses(t *testing.T) {
	f := load(t)
	f.mustConfigure()
	other := func(change func(*snp.Report)) func(evidence.Nonce) []byte {
		launch := f.launch
		change(&launch.Report)
		return f.genuine(launch)
	}
	stranger := snpdevtest.New(t, time.Now()).Launch(wanted, once)
	for _, c := range []struct {
		name   string
		answer func(evidence.Nonce) []byte
		code   codes.Code
		want   string
	}{
		{"measurement", other(func(r *snp.Report) { r.Measurement[0]++ }), codes.PermissionDenied, "measurement"},
		{"debug", other(func(r *snp.Report) { r.Policy |= snp.PolicyDebug }), codes.PermissionDenied, "debug"},
		{"VMPL", other(func(r *snp.Report) { r.VMPL = 1 }), codes.PermissionDenied, "VMPL"},
		{"another nonce", func(n evidence.Nonce) []byte { n[0]++; return f.genuine(f.launch)(n) }, codes.PermissionDenied, "REPORT_DATA"},
		{"another purpose", func(n evidence.Nonce) []byte {
			return f.encode(evidence.Evidence{Report: f.launch.Sign(evidence.OwnerAttestation(n, nil, [32]byte{})), Certificates: f.sp.Chain.Certificates()})
		}, codes.PermissionDenied, "REPORT_DATA"},
		{"another root", func(n evidence.Nonce) []byte {
			return f.encode(evidence.Evidence{Report: stranger.Sign(evidence.NodeAttestation(n)), Certificates: f.sp.Chain.Certificates()})
		}, codes.PermissionDenied, "signature"},
		{"no certificates", func(n evidence.Nonce) []byte {
			return f.encode(evidence.Evidence{Report: f.launch.Sign(evidence.NodeAttestation(n))})
		}, codes.PermissionDenied, "chain"},
		{"nothing", func(evidence.Nonce) []byte { return nil }, codes.InvalidArgument, "malformed"},
		{"garbage", func(evidence.Nonce) []byte { return []byte(strings.Repeat("[", 60000)) }, codes.InvalidArgument, "malformed"},
		{"too much", func(evidence.Nonce) []byte { return make([]byte, 1<<20) }, codes.InvalidArgument, "malformed"},
		{"short report", func(evidence.Nonce) []byte { return f.encode(evidence.Evidence{Report: []byte{1}}) }, codes.InvalidArgument, "malformed"},
	} {
		t.Run(c.name, func(t *testing.T) { f.wantRefusal(c.answer, c.code, c.want) })
	}
}

// TestEvidenceWithoutCertificate: evidence that lacks its certificate is kept, once for a
// chip at a TCB, and no other refused evidence is.
func TestEvidenceWithoutCertificate(t *testing.T) {
	f := load(t)
	dir := filepath.Join(t.TempDir(), "evidence")
	f.mustConfigure(fmt.Sprintf("evidence_dir = %q", dir))
	bare := func(n evidence.Nonce) []byte {
		return f.encode(evidence.Evidence{Report: f.launch.Sign(evidence.NodeAttestation(n))})
	}
	changed := f.launch
	changed.Report.Measurement[0]++
	for _, c := range []struct {
		answer func(evidence.Nonce) []byte
		kept   int
	}{{f.genuine(changed), 0}, {bare, 1}, {bare, 1}} {
		if _, err := f.attest(c.answer); err == nil {
			t.Fatal("accepted")
		}
		files, err := os.ReadDir(dir)
		if err != nil || len(files) != c.kept {
			t.Errorf("kept %v, %v, want %d files", files, err, c.kept)
		}
	}
}

// What the log gets, the peer does not.
func TestPeerLearnsNoValues(t *testing.T) {
	f := load(t)
	f.mustConfigure()
	launch := f.launch
	launch.Report.Measurement[0]++
	_, err := f.attest(f.genuine(launch))
	if err == nil || strings.Contains(err.Error(), wanted.String()) {
		t.Errorf("got error %v, want one without the measurement that is wanted", err)
	}
}

func TestWrongFirstMessage(t *testing.T) {
	f := load(t)
	f.mustConfigure()
	stream, err := f.client.Attest(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&nodeattestorv1.AttestRequest{Request: &nodeattestorv1.AttestRequest_Payload{Payload: make([]byte, 3<<20)}}); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); status.Code(err) != codes.InvalidArgument {
		t.Errorf("got %v, want %v", err, codes.InvalidArgument)
	}
}

// Any of several files may accept, and what an operator writes counts at once.
func TestReload(t *testing.T) {
	f := load(t)
	second := snpdevtest.WriteValues(t, f.sp.Values(snp.Measurement{9}))
	if _, err := f.configure(fmt.Sprintf("refval_files = [%q, %q]\ncollateral_dir = %q", second, f.refval, f.sp.Collateral)); err != nil {
		t.Fatal(err)
	}
	accepted := func() {
		t.Helper()
		if _, err := f.attest(f.genuine(f.launch)); err != nil {
			t.Error(err)
		}
	}
	accepted()
	snpdevtest.RewriteValues(t, f.refval, f.sp.Values(snp.Measurement{8}))
	f.wantRefusal(f.genuine(f.launch), codes.PermissionDenied, "measurement")
	snpdevtest.RewriteValues(t, second, f.sp.Values(wanted))
	accepted()
	if err := os.WriteFile(f.refval, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	f.wantRefusal(f.genuine(f.launch), codes.Internal, "cannot be judged")
	snpdevtest.RewriteValues(t, f.refval, f.sp.Values(wanted))
	accepted()
	f.sp.Revoke(true)
	f.wantRefusal(f.genuine(f.launch), codes.PermissionDenied, "revocation")
	f.sp.Revoke()
	accepted()
	if err := os.Remove(filepath.Join(f.sp.Collateral, "ark.crl")); err != nil {
		t.Fatal(err)
	}
	f.wantRefusal(f.genuine(f.launch), codes.PermissionDenied, "revocation")
	f.mustConfigure(`revocation = "accept-unknown"`)
	accepted()
}

// A directory takes files in, lets them go and counts what has changed, each from
// the next attestation on. Names that are no reference values are not read.
func TestRefvalDir(t *testing.T) {
	f := load(t)
	dir := t.TempDir()
	write := func(name string, v refval.Values) {
		t.Helper()
		data, err := v.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	config := fmt.Sprintf("refval_dir = %q\ncollateral_dir = %q", dir, f.sp.Collateral)
	if _, err := f.configure(config); err != nil {
		t.Fatal(err)
	}
	f.wantRefusal(f.genuine(f.launch), codes.Internal, "cannot be judged")
	for _, name := range []string{"README", "web.json.orig", ".web.json"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("{"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("other.json", f.sp.Values(snp.Measurement{9}))
	f.wantRefusal(f.genuine(f.launch), codes.PermissionDenied, "measurement")
	write("web.json", f.sp.Values(wanted))
	if _, err := f.attest(f.genuine(f.launch)); err != nil {
		t.Error(err)
	}
	if err := os.Rename(filepath.Join(dir, "web.json"), filepath.Join(dir, "web.off")); err != nil {
		t.Fatal(err)
	}
	f.wantRefusal(f.genuine(f.launch), codes.PermissionDenied, "measurement")
	write("web.json", f.sp.Values(wanted))
	if _, err := f.attest(f.genuine(f.launch)); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "bad.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	f.wantRefusal(f.genuine(f.launch), codes.Internal, "cannot be judged")
	if _, err := f.configure(config); err == nil || !strings.Contains(err.Error(), filepath.Join(dir, "bad.json")) {
		t.Errorf("got error %v, want one that names bad.json", err)
	}
}

// A server that can accept nobody, since it has no CRL, says so when it starts.
func TestConfigureWithoutCRL(t *testing.T) {
	f := load(t)
	if err := os.Remove(filepath.Join(f.sp.Collateral, "ark.crl")); err != nil {
		t.Fatal(err)
	}
	notes, err := f.configure(f.data())
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(notes, func(n string) bool { return strings.Contains(n, "has no CRL") }) {
		t.Errorf("notes are %q, want one about the CRL", notes)
	}
}

// Of many reference values those that have the measurement judge, however many
// stand before them.
func TestRefvalDirOfAFleet(t *testing.T) {
	f := load(t)
	dir := t.TempDir()
	other := f.sp.Values(snp.Measurement{9})
	encoded, err := other.Encode()
	if err != nil {
		t.Fatal(err)
	}
	for i := range maxRefvalDir - 1 {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("a%04d.json", i)), encoded, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	snpdevtest.RewriteValues(t, filepath.Join(dir, "web.json"), f.sp.Values(wanted))
	if _, err := f.configure(fmt.Sprintf("refval_dir = %q\ncollateral_dir = %q", dir, f.sp.Collateral)); err != nil {
		t.Fatal(err)
	}
	judged := 0
	f.plugin.appraise = func(q appraise.Request) appraise.Verdict { judged++; return appraise.Appraise(q) }
	if _, err := f.attest(f.genuine(f.launch)); err != nil || judged != 1 {
		t.Errorf("got error %v after %d appraisals, want one", err, judged)
	}
	judged = 0
	unknown := f.launch
	unknown.Report.Measurement[0]++
	f.wantRefusal(f.genuine(unknown), codes.PermissionDenied, "measurement")
	if judged != maxRefvalFiles {
		t.Errorf("got %d appraisals, want %d", judged, maxRefvalFiles)
	}
	if err := os.WriteFile(filepath.Join(dir, "z.json"), encoded, 0o600); err != nil {
		t.Fatal(err)
	}
	f.wantRefusal(f.genuine(f.launch), codes.Internal, "cannot be judged")
}

func TestConfigure(t *testing.T) {
	f := load(t)
	if _, err := f.attest(f.genuine(f.launch)); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("got %v before Configure, want %v", err, codes.FailedPrecondition)
	}
	f.mustConfigure()
	for _, c := range []struct{ name, text, want string }{
		{"unknown key", f.data(`refval_file = "x"`), `unknown key "refval_file"`},
		{"no files", fmt.Sprintf("collateral_dir = %q", f.sp.Collateral), "want refval_files, refval_dir or refval"},
		{"no collateral", fmt.Sprintf("refval_files = [%q]", f.refval), "collateral_dir is missing"},
		{"missing file", "refval_files = [\"/nonexistent\"]\ncollateral_dir = \"/\"", "/nonexistent"},
		{"missing directory", fmt.Sprintf("refval_files = [%q]\ncollateral_dir = \"/nonexistent\"", f.refval), "/nonexistent"},
		{"bad refval", fmt.Sprintf("refval_files = [%q]\ncollateral_dir = %q", filepath.Join(f.sp.Collateral, "ark.crl"), f.sp.Collateral), "decoding reference values"},
		{"inline garbage", f.data(`refval = "{}"`), "refval of plugin_data: decoding reference values"},
		{"inline nothing", f.data(`refval = ""`), "refval of plugin_data: decoding reference values"},
		{"inline block", f.data(`refval { version = 1 }`), "decoding configuration"},
		{"inline twice", f.data(`refval = "{}"`, `refval = "{}"`), "comes twice"},
		{"too many files", fmt.Sprintf("refval_files = [%s]", strings.Repeat(`"/x",`, maxRefvalFiles+1)), "at most 64"},
		{"revocation", f.data(`revocation = "off"`), `revocation is "off"`},
		{"selector", f.data(`selectors = ["measurment"]`), `selectors has "measurment", want`},
		{"selector value", f.data(`selectors = ["vmpl:0:"]`), "selectors has"},
		{"template syntax", f.data(`agent_path_template = "/{{ .PluginName"`), "agent_path_template"},
		{"template field", f.data(`agent_path_template = "/{{ .PluginName }}/{{ .UUID }}"`), "agent_path_template"},
		{"template below emulated", f.data(`agent_path_template = "/{{ .PluginName }}/emulated/{{ .ReportID }}"`), "not below /amd_sev_snp/emulated"},
		{"template emulated", f.data(`agent_path_template = "/{{ .PluginName }}/emulated"`), "not below /amd_sev_snp/emulated"},
		{"template outside", f.data(`agent_path_template = "/other/{{ .ReportID }}"`), "below /amd_sev_snp/"},
		{"template characters", f.data(`agent_path_template = "/{{ .PluginName }}/a b"`), "path"},
		{"template length", f.data(`agent_path_template = "/{{ .PluginName }}/{{ printf \"%2000d\" 1 }}"`), "too long"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := f.configure(c.text); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got error %v, want one with %q", err, c.want)
			}
		})
	}
	if _, err := f.attest(f.genuine(f.launch)); err != nil {
		t.Errorf("after refused configurations the valid one is gone: %v", err)
	}
}

func TestNotes(t *testing.T) {
	f := load(t)
	v := f.sp.Values(wanted)
	v.Products = append(v.Products, refval.Product{Name: snp.Milan, MinimumTCB: refval.Any[snp.TCB]()})
	snpdevtest.RewriteValues(t, f.refval, v)
	notes, err := f.configure(f.data(`agent_path_template = "{{ .PluginName }}/vm1"`, `revocation = "accept-unknown"`))
	if err != nil {
		t.Fatal(err)
	}
	all := strings.Join(notes, "\n")
	for _, want := range []string{"NOT CONFIDENTIAL", "Milan", "accept-unknown", "share an agent ID"} {
		if !strings.Contains(all, want) {
			t.Errorf("no note with %q among %q", want, notes)
		}
	}
	got, err := f.attest(f.genuine(f.launch))
	if err != nil || got.SpiffeId != f.agentID("vm1") {
		t.Errorf("got %v, %v", got, err)
	}
}
