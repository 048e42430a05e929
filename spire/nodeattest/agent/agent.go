// Package agent is the guest's side of the SPIRE node attestor amd_sev_snp: it answers the
// server's nonce with a report from the AMD-SP.
package agent

import (
	"context"
	"fmt"
	"sync"

	"github.com/hashicorp/go-hclog"
	nodeattestorv1 "github.com/spiffe/spire-plugin-sdk/proto/spire/plugin/agent/nodeattestor/v1"
	configv1 "github.com/spiffe/spire-plugin-sdk/proto/spire/service/common/config/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/rootvouch/rootvouch/evidence"
	"github.com/rootvouch/rootvouch/internal/emulated"
	"github.com/rootvouch/rootvouch/snp/snpdev"
	"github.com/rootvouch/rootvouch/spire/nodeattest"
)

// rawConfig is the plugin_data in agent.conf.
type rawConfig struct {
	// Device is the kind of report device, as in snpdev.Open. Required.
	Device string `hcl:"device"`
	// DevicePath is the device's path, as in snpdev.OpenPath, if it is not the usual one.
	DevicePath string `hcl:"device_path"`
}

// config is a checked rawConfig. It names the device but does not open it: the device may
// appear later than the agent, and its absence must be an error of the attestation that needs
// it.
type config struct{ kind, path string }

func build(text string) (*config, error) {
	var raw rawConfig
	if err := nodeattest.DecodeConfig(text, &raw, "device", "device_path"); err != nil {
		return nil, err
	}
	switch raw.Device {
	case snpdev.ConfigfsTSM, snpdev.SEVGuest, snpdev.VirtioPort:
		return &config{raw.Device, raw.DevicePath}, nil
	}
	return nil, fmt.Errorf("device is %q, want %s, %s or %s", raw.Device, snpdev.ConfigfsTSM, snpdev.SEVGuest, snpdev.VirtioPort)
}

// Plugin serves SPIRE's agent plugin protocol. Its zero value is not configured.
type Plugin struct {
	nodeattestorv1.UnsafeNodeAttestorServer
	configv1.UnsafeConfigServer

	log hclog.Logger // set before the plugin serves

	mu     sync.Mutex
	config *config // guarded by mu; nil until configured
}

var (
	_ nodeattestorv1.NodeAttestorServer = (*Plugin)(nil)
	_ configv1.ConfigServer             = (*Plugin)(nil)
)

// SetLogger is called once, by SPIRE's plugin framework.
func (p *Plugin) SetLogger(log hclog.Logger) { p.log = log }

// Configure replaces the configuration. If it fails, it keeps the old one.
func (p *Plugin) Configure(_ context.Context, request *configv1.ConfigureRequest) (*configv1.ConfigureResponse, error) {
	c, err := build(request.GetHclConfiguration())
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.config = c
	if c.kind == snpdev.VirtioPort && p.log != nil {
		p.log.Warn("Reports come from a software AMD-SP. Emulated: " + emulated.NotConfidential)
	}
	return &configv1.ConfigureResponse{}, nil
}

// Validate returns the errors that Configure would return.
func (p *Plugin) Validate(_ context.Context, request *configv1.ValidateRequest) (*configv1.ValidateResponse, error) {
	if _, err := build(request.GetHclConfiguration()); err != nil {
		return &configv1.ValidateResponse{Valid: false, Notes: []string{err.Error()}}, nil
	}
	return &configv1.ValidateResponse{Valid: true}, nil
}

// AidAttestation makes one exchange. It opens the device first, so that a missing device shows
// before it asks the server for anything.
func (p *Plugin) AidAttestation(stream nodeattestorv1.NodeAttestor_AidAttestationServer) error {
	p.mu.Lock()
	c := p.config
	p.mu.Unlock()
	if c == nil {
		return status.Error(codes.FailedPrecondition, "not configured")
	}
	device, err := snpdev.OpenPath(c.kind, c.path)
	if err != nil {
		return status.Error(codes.Unavailable, err.Error())
	}
	if err := stream.Send(&nodeattestorv1.PayloadOrChallengeResponse{
		Data: &nodeattestorv1.PayloadOrChallengeResponse_Payload{Payload: nodeattest.Hello()},
	}); err != nil {
		return err
	}
	challenge, err := stream.Recv()
	if err != nil {
		return err
	}
	answer, err := answer(device, challenge.GetChallenge())
	if err != nil {
		return err
	}
	return stream.Send(&nodeattestorv1.PayloadOrChallengeResponse{
		Data: &nodeattestorv1.PayloadOrChallengeResponse_ChallengeResponse{ChallengeResponse: answer},
	})
}

func answer(device *snpdev.Device, challenge []byte) ([]byte, error) {
	nonce, err := nodeattest.ParseChallenge(challenge)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	e, err := device.Evidence(evidence.NodeAttestation(nonce))
	if err != nil {
		return nil, status.Error(codes.Unavailable, err.Error())
	}
	encoded, err := e.Encode()
	if err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	return encoded, nil
}
