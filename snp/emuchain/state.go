package emuchain

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
)

// The PEM blocks of a persisted chain, in this order.
const (
	blockCertificate = "CERTIFICATE"
	blockKey         = "PRIVATE KEY"
)

// MarshalState returns the whole chain, private keys included, as PEM: ARK, ASK,
// VCEK, each a certificate and its key. Anyone who reads the state can forge
// reports of this chain.
func (c *Chain) MarshalState() ([]byte, error) {
	var out bytes.Buffer
	for _, pair := range []struct {
		cert *x509.Certificate
		key  any
	}{{c.ARK, c.arkKey}, {c.ASK, c.askKey}, {c.VCEK, c.VCEKKey}} {
		key, err := x509.MarshalPKCS8PrivateKey(pair.key)
		if err != nil {
			return nil, fmt.Errorf("encoding chain: %v", err)
		}
		for _, b := range []*pem.Block{{Type: blockCertificate, Bytes: pair.cert.Raw}, {Type: blockKey, Bytes: key}} {
			if err := pem.Encode(&out, b); err != nil {
				return nil, fmt.Errorf("encoding chain: %v", err)
			}
		}
	}
	return out.Bytes(), nil
}

// ParseState accepts only bytes that [Chain.MarshalState] returns. Each key must
// belong to its certificate, and each certificate to its issuer.
func ParseState(data []byte) (*Chain, error) {
	c, err := parseState(data)
	if err != nil {
		return nil, fmt.Errorf("parsing chain: %v", err)
	}
	again, err := c.MarshalState()
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(again, data) {
		return nil, fmt.Errorf("parsing chain: it is not in its canonical form")
	}
	return c, nil
}

func parseState(data []byte) (*Chain, error) {
	c := &Chain{}
	var err error
	var key any
	if c.ARK, key, data, err = nextPair(data); err != nil {
		return nil, fmt.Errorf("ARK: %v", err)
	}
	var ok bool
	if c.arkKey, ok = key.(*rsa.PrivateKey); !ok {
		return nil, fmt.Errorf("ARK: key is %T, want RSA", key)
	}
	if c.ASK, key, data, err = nextPair(data); err != nil {
		return nil, fmt.Errorf("ASK: %v", err)
	}
	if c.askKey, ok = key.(*rsa.PrivateKey); !ok {
		return nil, fmt.Errorf("ASK: key is %T, want RSA", key)
	}
	if c.VCEK, key, data, err = nextPair(data); err != nil {
		return nil, fmt.Errorf("VCEK: %v", err)
	}
	if c.VCEKKey, ok = key.(*ecdsa.PrivateKey); !ok || c.VCEKKey.Curve != elliptic.P384() {
		return nil, fmt.Errorf("VCEK: key is %T, want ECDSA on P-384", key)
	}
	if len(data) != 0 {
		return nil, fmt.Errorf("%d bytes follow the VCEK's key", len(data))
	}
	for _, link := range []struct{ cert, issuer *x509.Certificate }{{c.ARK, c.ARK}, {c.ASK, c.ARK}, {c.VCEK, c.ASK}} {
		if err := link.cert.CheckSignatureFrom(link.issuer); err != nil {
			return nil, fmt.Errorf("%s: %v", link.cert.Subject.CommonName, err)
		}
	}
	return c, nil
}

// nextPair reads a certificate and its key, and returns the rest.
func nextPair(data []byte) (*x509.Certificate, any, []byte, error) {
	block, data := pem.Decode(data)
	if block == nil || block.Type != blockCertificate {
		return nil, nil, nil, fmt.Errorf("no %s block", blockCertificate)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, nil, nil, err
	}
	block, data = pem.Decode(data)
	if block == nil || block.Type != blockKey {
		return nil, nil, nil, fmt.Errorf("no %s block", blockKey)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, nil, nil, err
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, nil, nil, fmt.Errorf("key is %T, want one that signs", key)
	}
	if pub, ok := signer.Public().(interface{ Equal(crypto.PublicKey) bool }); !ok || !pub.Equal(cert.PublicKey) {
		return nil, nil, nil, fmt.Errorf("key is not that of the certificate")
	}
	return cert, key, data, nil
}
