package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/miekg/pkcs11"

	"github.com/rootvouch/rootvouch/kms/kek/provider"
)

// AES-GCM's sizes: nonce in bytes (NIST SP 800-38D), tag in bits.
const (
	nonceSize = 12
	tagBits   = 128
)

// token is a session with a token that the user is logged in to, and its key.
type token struct {
	ctx     *pkcs11.Ctx
	session pkcs11.SessionHandle
	key     pkcs11.ObjectHandle
}

// open loads a library and logs in to the one token with a label.
func open(module, label, pin string) (*token, error) {
	ctx := pkcs11.New(module)
	if ctx == nil {
		return nil, fmt.Errorf("loading PKCS #11 library %s failed", module)
	}
	t := &token{ctx: ctx}
	if err := t.start(label, pin); err != nil {
		t.close()
		return nil, err
	}
	return t, nil
}

func (t *token) start(label, pin string) error {
	if err := t.ctx.Initialize(); err != nil {
		return fmt.Errorf("initializing the library: %w", err)
	}
	slots, err := t.ctx.GetSlotList(true)
	if err != nil {
		return fmt.Errorf("listing tokens: %w", err)
	}
	var found []uint
	for _, slot := range slots {
		if info, err := t.ctx.GetTokenInfo(slot); err == nil && info.Label == label {
			found = append(found, slot)
		}
	}
	if len(found) != 1 {
		return fmt.Errorf("there are %d tokens with the label %q, want one", len(found), label)
	}
	if t.session, err = t.ctx.OpenSession(found[0], pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION); err != nil {
		return fmt.Errorf("opening a session: %w", err)
	}
	if err := t.ctx.Login(t.session, pkcs11.CKU_USER, pin); err != nil {
		return fmt.Errorf("logging in to token %q: %w", label, err)
	}
	return nil
}

func (t *token) close() {
	t.ctx.Finalize()
	t.ctx.Destroy()
}

// search returns the AES keys with a label.
func (t *token) search(label string) ([]pkcs11.ObjectHandle, error) {
	template := []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY),
		pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_AES),
		pkcs11.NewAttribute(pkcs11.CKA_LABEL, label),
	}
	if err := t.ctx.FindObjectsInit(t.session, template); err != nil {
		return nil, fmt.Errorf("looking for key %q: %w", label, err)
	}
	found, _, err := t.ctx.FindObjects(t.session, 2)
	if final := t.ctx.FindObjectsFinal(t.session); err == nil {
		err = final
	}
	if err != nil {
		return nil, fmt.Errorf("looking for key %q: %w", label, err)
	}
	return found, nil
}

// find takes the one key with a label.
func (t *token) find(label string) error {
	found, err := t.search(label)
	if err != nil {
		return err
	}
	if len(found) != 1 {
		return fmt.Errorf("there are %d AES keys with the label %q, want one (--create makes it)", len(found), label)
	}
	t.key = found[0]
	return nil
}

// create makes a key that never leaves the token.
func (t *token) create(label string) error {
	found, err := t.search(label)
	if err != nil {
		return err
	}
	if len(found) > 0 {
		return fmt.Errorf("there is an AES key with the label %q already", label)
	}
	_, err = t.ctx.GenerateKey(t.session, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_AES_KEY_GEN, nil)}, []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_LABEL, label),
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true),
		pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, true),
		pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, true),
		pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, false),
		pkcs11.NewAttribute(pkcs11.CKA_ENCRYPT, true),
		pkcs11.NewAttribute(pkcs11.CKA_DECRYPT, true),
		pkcs11.NewAttribute(pkcs11.CKA_VALUE_LEN, 32),
	})
	if err != nil {
		return fmt.Errorf("making key %q: %w", label, err)
	}
	return nil
}

// Seal implements provider.Keeper: AES-256-GCM with a random nonce, which comes first.
func (t *token) Seal(secret, about []byte) ([]byte, error) {
	nonce := make([]byte, nonceSize)
	if _, err := io.ReadFull(random, nonce); err != nil {
		return nil, err
	}
	params := pkcs11.NewGCMParams(nonce, about, tagBits)
	defer params.Free()
	if err := t.ctx.EncryptInit(t.session, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_AES_GCM, params)}, t.key); err != nil {
		return nil, fmt.Errorf("sealing in the token: %w", err)
	}
	sealed, err := t.ctx.Encrypt(t.session, secret)
	if err != nil {
		return nil, fmt.Errorf("sealing in the token: %w", err)
	}
	if iv := params.IV(); !bytes.Equal(iv, nonce) {
		nonce = iv // some tokens choose it themselves
	}
	if len(nonce) != nonceSize {
		return nil, fmt.Errorf("the token's nonce has %d bytes, want %d", len(nonce), nonceSize)
	}
	return append(nonce, sealed...), nil
}

// Open implements provider.Keeper. Tokens say in many ways that a tag is wrong; one that opens
// what it has just sealed is well, so that what it did not open is wrong.
func (t *token) Open(sealed, about []byte) ([]byte, error) {
	secret, err := t.decrypt(sealed, about)
	if err == nil {
		return secret, nil
	}
	if len(sealed) < nonceSize+tagBits/8 {
		return nil, provider.ErrWrong
	}
	probe, sealErr := t.Seal([]byte("probe"), about)
	if sealErr != nil {
		return nil, errors.Join(err, sealErr)
	}
	if got, probeErr := t.decrypt(probe, about); probeErr != nil || string(got) != "probe" {
		return nil, errors.Join(err, probeErr)
	}
	return nil, provider.ErrWrong
}

func (t *token) decrypt(sealed, about []byte) ([]byte, error) {
	if len(sealed) < nonceSize {
		return nil, errors.New("too short")
	}
	params := pkcs11.NewGCMParams(sealed[:nonceSize], about, tagBits)
	defer params.Free()
	if err := t.ctx.DecryptInit(t.session, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_AES_GCM, params)}, t.key); err != nil {
		return nil, fmt.Errorf("opening in the token: %w", err)
	}
	secret, err := t.ctx.Decrypt(t.session, sealed[nonceSize:])
	if err != nil {
		return nil, fmt.Errorf("opening in the token: %w", err)
	}
	return secret, nil
}
