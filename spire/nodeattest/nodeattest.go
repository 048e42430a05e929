// Package nodeattest holds the messages of the SPIRE node attestor amd_sev_snp, their
// limits, and the reader of its configuration. Both ends of the attestor share all three.
//
// The exchange, inside SPIRE's AttestAgent stream:
//
//	agent → server   Hello              says the version, and nothing about the agent
//	server → agent   a nonce, 32 bytes  drawn for this exchange
//	agent → server   evidence           docs/spec/evidence.md; REPORT_DATA is evidence.NodeAttestation(nonce)
//
// SPIRE shows the agent's certificate request to neither plugin, so nothing here
// binds the agent's key: see evidence.NodeAttestation.
package nodeattest

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"github.com/hashicorp/hcl"
	"github.com/hashicorp/hcl/hcl/ast"

	"github.com/rootvouch/rootvouch/evidence"
)

const (
	// PluginName is the attestor's name in SPIRE's configuration, in agent IDs,
	// and the type of its selectors. It is also the name of the public SEV-SNP
	// attestor, whose entries therefore keep their selectors.
	PluginName = "amd_sev_snp"

	hello = `{"version":1}`

	// maxConfig bounds the plugin_data of a plugin, in bytes.
	maxConfig = 64 << 10
)

// Hello is the agent's first message.
func Hello() []byte { return []byte(hello) }

// CheckHello accepts only the one valid Hello.
func CheckHello(payload []byte) error {
	if !bytes.Equal(payload, []byte(hello)) {
		return fmt.Errorf("payload of %d bytes is not %s", len(payload), hello)
	}
	return nil
}

// ParseChallenge reads the server's nonce.
func ParseChallenge(challenge []byte) (evidence.Nonce, error) {
	var nonce evidence.Nonce
	if len(challenge) != len(nonce) {
		return evidence.Nonce{}, fmt.Errorf("challenge has %d bytes, want a nonce of %d", len(challenge), len(nonce))
	}
	return evidence.Nonce(challenge), nil
}

// DecodeConfig decodes a plugin's plugin_data into v, a pointer to a struct with hcl tags. keys
// are all valid keys. DecodeConfig refuses any other key, also one that differs only in case,
// which HCL would accept. It refuses a repeated key, of which HCL would take the last value, or
// both.
func DecodeConfig(text string, v any, keys ...string) error {
	if len(text) > maxConfig {
		return fmt.Errorf("decoding configuration: it has %d bytes, want at most %d", len(text), maxConfig)
	}
	// SPIRE reformats plugin_data without a final newline, but a heredoc needs one.
	file, err := hcl.Parse(text + "\n")
	if err != nil {
		return fmt.Errorf("decoding configuration: %v", err)
	}
	list, ok := file.Node.(*ast.ObjectList)
	if !ok {
		return fmt.Errorf("decoding configuration: want a list of settings")
	}
	seen := map[string]bool{}
	for _, item := range list.Items {
		if len(item.Keys) != 1 {
			return fmt.Errorf("decoding configuration: line %d: want key = value", item.Pos().Line)
		}
		key, ok := item.Keys[0].Token.Value().(string)
		switch {
		case !ok || !slices.Contains(keys, key):
			return fmt.Errorf("decoding configuration: line %d: unknown key %q, want %s", item.Pos().Line, key, strings.Join(keys, ", "))
		case seen[key]:
			return fmt.Errorf("decoding configuration: line %d: key %q comes twice", item.Pos().Line, key)
		}
		seen[key] = true
	}
	if err := hcl.DecodeObject(v, file); err != nil {
		return fmt.Errorf("decoding configuration: %v", err)
	}
	return nil
}
