// Package server is the SPIRE server's side of the node attestor amd_sev_snp: it has an agent's
// evidence appraised and gives the agent an ID and selectors.
//
// The package judges nothing itself, and trusts the bytes of a peer only after
// appraise has accepted them. It refuses a peer that sends too much before it parses
// anything. It drops a silent peer after a time limit, or earlier if too many others
// wait.
package server

import (
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	nodeattestorv1 "github.com/spiffe/spire-plugin-sdk/proto/spire/plugin/server/nodeattestor/v1"
	configv1 "github.com/spiffe/spire-plugin-sdk/proto/spire/service/common/config/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/rootvouch/rootvouch/appraise"
	"github.com/rootvouch/rootvouch/evidence"
	"github.com/rootvouch/rootvouch/spire/nodeattest"
)

const (
	// helloTimeout bounds the wait for a peer's first message. SPIRE's server has that message
	// before it calls the plugin.
	helloTimeout = 5 * time.Second

	// answerTimeout bounds the wait for a peer's evidence. Linux stops asking a throttling host
	// for a report after 60 s.
	answerTimeout = 75 * time.Second
)

// Plugin serves SPIRE's server plugin protocol. Make it with New.
type Plugin struct {
	nodeattestorv1.UnsafeNodeAttestorServer
	configv1.UnsafeConfigServer

	now           func() time.Time
	rand          io.Reader
	helloTimeout  time.Duration
	answerTimeout time.Duration
	log           hclog.Logger // set before the plugin serves
	waiting       waiting

	appraise func(appraise.Request) appraise.Verdict
	memo     appraise.Memo // caches the verification of the roots' signatures, across configurations

	mu     sync.Mutex
	config *config // guarded by mu; nil until configured
}

var (
	_ nodeattestorv1.NodeAttestorServer = (*Plugin)(nil)
	_ configv1.ConfigServer             = (*Plugin)(nil)
)

// New returns a plugin that is not configured yet. It judges evidence at now, and draws nonces
// from rand.
func New(now func() time.Time, rand io.Reader) *Plugin {
	return &Plugin{
		now:           now,
		rand:          rand,
		helloTimeout:  helloTimeout,
		answerTimeout: answerTimeout,
		log:           hclog.NewNullLogger(),
		waiting:       waiting{max: maxWaiting},
		appraise:      appraise.Appraise,
	}
}

// SetLogger is called once, by SPIRE's plugin framework.
func (p *Plugin) SetLogger(log hclog.Logger) { p.log = log }

// Configure replaces the configuration. If it fails, it keeps the old one.
func (p *Plugin) Configure(_ context.Context, request *configv1.ConfigureRequest) (*configv1.ConfigureResponse, error) {
	c, err := build(request.GetCoreConfiguration(), request.GetHclConfiguration())
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	for _, note := range c.notes {
		p.log.Warn(note)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.config = c
	return &configv1.ConfigureResponse{}, nil
}

// Validate returns the errors that Configure would return, and the notes.
func (p *Plugin) Validate(_ context.Context, request *configv1.ValidateRequest) (*configv1.ValidateResponse, error) {
	c, err := build(request.GetCoreConfiguration(), request.GetHclConfiguration())
	if err != nil {
		return &configv1.ValidateResponse{Valid: false, Notes: []string{err.Error()}}, nil
	}
	return &configv1.ValidateResponse{Valid: true, Notes: c.notes}, nil
}

// Attest makes one exchange, as package nodeattest describes it. The log has the faults of the
// evidence. The peer learns only which checks failed.
func (p *Plugin) Attest(stream nodeattestorv1.NodeAttestor_AttestServer) error {
	p.mu.Lock()
	c := p.config
	p.mu.Unlock()
	if c == nil {
		return status.Error(codes.FailedPrecondition, "not configured")
	}
	nonce, answer, err := p.exchange(stream)
	if err != nil {
		return err
	}
	attributes, err := p.judge(c, nonce, answer)
	if err != nil {
		return err
	}
	return stream.Send(&nodeattestorv1.AttestResponse{
		Response: &nodeattestorv1.AttestResponse_AgentAttributes{AgentAttributes: attributes},
	})
}

// exchange sends a nonce to a peer that greets, and returns the nonce with the answer.
func (p *Plugin) exchange(stream nodeattestorv1.NodeAttestor_AttestServer) (evidence.Nonce, []byte, error) {
	ctx, leave := p.waiting.enter(stream.Context())
	defer leave()
	first, err := receive(ctx, stream, p.helloTimeout)
	if err != nil {
		return evidence.Nonce{}, nil, err
	}
	if err := nodeattest.CheckHello(first.GetPayload()); err != nil {
		return evidence.Nonce{}, nil, status.Error(codes.InvalidArgument, err.Error())
	}
	nonce, err := evidence.NewNonce(p.rand)
	if err != nil {
		p.log.Error("No nonce", "error", err)
		return evidence.Nonce{}, nil, status.Error(codes.Internal, "no nonce")
	}
	if err := stream.Send(&nodeattestorv1.AttestResponse{
		Response: &nodeattestorv1.AttestResponse_Challenge{Challenge: nonce[:]},
	}); err != nil {
		return evidence.Nonce{}, nil, err
	}
	second, err := receive(ctx, stream, p.answerTimeout)
	if err != nil {
		return evidence.Nonce{}, nil, err
	}
	return nonce, second.GetChallengeResponse(), nil
}

// receive waits for a message, but at most for limit. The goroutine ends with the stream, which
// ends when Attest returns.
func receive(ctx context.Context, stream nodeattestorv1.NodeAttestor_AttestServer, limit time.Duration) (*nodeattestorv1.AttestRequest, error) {
	type received struct {
		request *nodeattestorv1.AttestRequest
		err     error
	}
	arrived := make(chan received, 1)
	go func() {
		request, err := stream.Recv()
		arrived <- received{request, err}
	}()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case r := <-arrived:
		return r.request, r.err
	case <-timer.C:
		return nil, status.Errorf(codes.DeadlineExceeded, "no message within %v", limit)
	case <-ctx.Done():
		return nil, status.Error(codes.Unavailable, context.Cause(ctx).Error())
	}
}

// maxLogged bounds how many reference values log why they refuse a piece of evidence, because
// strangers decide how often that happens.
const maxLogged = 4

// short is an error's text, cut because a peer can make it long.
func short(err error) string { return fmt.Sprintf("%.2000s", err) }

// keep stores evidence that lacks its certificate where an operator can find it and fetch the
// certificate.
func (p *Plugin) keep(c *config, answer []byte, judged judgements) {
	report := judged[0].verdict.Report
	if report == nil || !judged[0].verdict.LacksCertificate() {
		return
	}
	path, err := c.kept.Keep(answer, report)
	if err != nil {
		p.log.Error("Evidence that lacks its certificate is not kept", "error", err)
	} else if path != "" {
		p.log.Warn("Evidence that lacks its certificate is kept: rootvouch collateral fetch --report takes it", "file", path)
	}
}

// judge appraises one answer.
func (p *Plugin) judge(c *config, nonce evidence.Nonce, answer []byte) (*nodeattestorv1.AgentAttributes, error) {
	e, err := appraise.Read(answer, evidence.Plain)
	if err != nil {
		p.log.Warn("Evidence refused", "error", short(err))
		return nil, status.Error(codes.InvalidArgument, "evidence is malformed")
	}
	judged, err := c.policy.judge(appraise.Request{
		Evidence:   e,
		ReportData: evidence.NodeAttestation(nonce),
		Now:        p.now(),
		Memo:       &p.memo,
	}, p.appraise)
	if err != nil {
		p.log.Error("Evidence cannot be judged", "error", err)
		return nil, status.Error(codes.Internal, "evidence cannot be judged: see the server's log")
	}
	if !judged.trusted() {
		for i, r := range judged {
			if i == maxLogged {
				p.log.Warn("Evidence refused", "refval", fmt.Sprintf("and by %d more", len(judged)-i))
				break
			}
			p.log.Warn("Evidence refused", "refval", r.file, "outcome", r.verdict.Outcome().String(), "error", short(r.verdict.Err()))
		}
		p.keep(c, answer, judged)
		return nil, status.Errorf(codes.PermissionDenied, "evidence is refused: %s", strings.Join(judged.failed(), ", "))
	}
	accepted := judged[0]
	for _, note := range accepted.verdict.Notes {
		p.log.Warn("Evidence accepted", "refval", accepted.file, "note", note)
	}
	id, err := c.path.id(accepted.verdict, accepted.values.RootOfTrust)
	if err != nil {
		p.log.Error("No agent ID", "error", err)
		return nil, status.Error(codes.Internal, "no agent ID: see the server's log")
	}
	selectors, err := accepted.selectors()
	if err != nil {
		p.log.Error("No selectors", "error", err)
		return nil, status.Error(codes.Internal, "no selectors: see the server's log")
	}
	p.log.Info("Evidence accepted", "refval", accepted.file, "agent_id", id.String(), "measurement", accepted.verdict.Report.Measurement.String())
	return &nodeattestorv1.AgentAttributes{SpiffeId: id.String(), SelectorValues: pick(selectors, c.selectors), CanReattest: true}, nil
}
