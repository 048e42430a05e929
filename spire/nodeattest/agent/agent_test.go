package agent

import (
	"strings"
	"testing"
	"time"

	"github.com/spiffe/spire-plugin-sdk/pluginsdk"
	"github.com/spiffe/spire-plugin-sdk/plugintest"
	nodeattestorv1 "github.com/spiffe/spire-plugin-sdk/proto/spire/plugin/agent/nodeattestor/v1"
	configv1 "github.com/spiffe/spire-plugin-sdk/proto/spire/service/common/config/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/rootvouch/rootvouch/evidence"
	"github.com/rootvouch/rootvouch/snp"
	"github.com/rootvouch/rootvouch/test/snpdevtest"
)

// load serves the plugin as SPIRE would.
func load(t *testing.T) (*nodeattestorv1.NodeAttestorPluginClient, *configv1.ConfigServiceClient) {
	t.Helper()
	plugin, client, config := new(Plugin), new(nodeattestorv1.NodeAttestorPluginClient), new(configv1.ConfigServiceClient)
	plugintest.ServeInBackground(t, plugintest.Config{
		PluginServer:   nodeattestorv1.NodeAttestorPluginServer(plugin),
		PluginClient:   client,
		ServiceServers: []pluginsdk.ServiceServer{configv1.ConfigServiceServer(plugin)},
		ServiceClients: []pluginsdk.ServiceClient{config},
	})
	return client, config
}

func configure(t *testing.T, c *configv1.ConfigServiceClient, text string) error {
	t.Helper()
	_, err := c.Configure(t.Context(), &configv1.ConfigureRequest{HclConfiguration: text})
	validated, verr := c.Validate(t.Context(), &configv1.ValidateRequest{HclConfiguration: text})
	if verr != nil {
		t.Fatal(verr)
	}
	if validated.Valid != (err == nil) {
		t.Errorf("%q: Validate says %v, Configure says %v", text, validated, err)
	}
	return err
}

// exchange does one with the challenge given, and returns the answer.
func exchange(t *testing.T, client *nodeattestorv1.NodeAttestorPluginClient, challenge []byte) ([]byte, error) {
	t.Helper()
	stream, err := client.AidAttestation(t.Context())
	if err != nil {
		return nil, err
	}
	first, err := stream.Recv()
	if err != nil {
		return nil, err
	}
	if got := string(first.GetPayload()); got != `{"version":1}` {
		t.Errorf("payload is %q", got)
	}
	if err := stream.Send(&nodeattestorv1.Challenge{Challenge: challenge}); err != nil {
		return nil, err
	}
	second, err := stream.Recv()
	return second.GetChallengeResponse(), err
}

func TestAnswer(t *testing.T) {
	socket := snpdevtest.New(t, time.Now()).Launch(snp.Measurement{1}, snp.ReportID{2}).Serve()
	client, config := load(t)
	if err := configure(t, config, `device = "virtio-port"`+"\n"+`device_path = "`+socket+`"`); err != nil {
		t.Fatal(err)
	}
	nonce := evidence.Nonce{4, 5, 6}
	answer, err := exchange(t, client, nonce[:])
	if err != nil {
		t.Fatal(err)
	}
	e, err := evidence.Decode(answer)
	if err != nil {
		t.Fatal(err)
	}
	r, err := snp.ParseReport(e.Report)
	if err != nil {
		t.Fatal(err)
	}
	if want := evidence.NodeAttestation(nonce); r.ReportData != snp.ReportData(want) {
		t.Errorf("REPORT_DATA is %s, want %x", r.ReportData, want)
	}
	if len(e.Certificates) != 3 {
		t.Errorf("got %d certificates, want 3", len(e.Certificates))
	}
	if _, err := exchange(t, client, nonce[:31]); status.Code(err) != codes.InvalidArgument {
		t.Errorf("got %v for a nonce of 31 bytes, want %v", err, codes.InvalidArgument)
	}
}

func TestMissingDevice(t *testing.T) {
	client, config := load(t)
	if _, err := exchange(t, client, make([]byte, 32)); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("got %v before Configure, want %v", err, codes.FailedPrecondition)
	}
	if err := configure(t, config, `device = "sev-guest"`+"\n"+`device_path = "/nonexistent/sev-guest"`); err != nil {
		t.Fatal(err)
	}
	_, err := exchange(t, client, make([]byte, 32))
	if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "/nonexistent/sev-guest") {
		t.Errorf("got %v, want %v with the path", err, codes.Unavailable)
	}
}

func TestConfigure(t *testing.T) {
	_, config := load(t)
	for _, c := range []struct{ text, want string }{
		{`device = "configfs-tsm"`, ""},
		{`device = "sev-guest"`, ""},
		{``, `device is ""`},
		{`device = "tpm"`, `device is "tpm"`},
		{`device = "sev-guest"` + "\n" + `devise_path = "/dev/x"`, `unknown key "devise_path"`},
	} {
		err := configure(t, config, c.text)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: got error %v, want %q", c.text, err, c.want)
		}
	}
}
