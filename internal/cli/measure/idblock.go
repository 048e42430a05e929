package measure

import (
	"bytes"
	"crypto/ecdsa"
	"encoding/base64"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/rootvouch/rootvouch/internal/cli"
	"github.com/rootvouch/rootvouch/internal/command"
	"github.com/rootvouch/rootvouch/refval"
	"github.com/rootvouch/rootvouch/snp"
	"github.com/rootvouch/rootvouch/snp/launch/idblock"
)

type idBlockFlags struct {
	digest, familyID, imageID string
	idKey, authorKey          string
	guestSVN                  uint32
	policy                    uint64
	json                      bool
	block, auth               string // of check
}

func newIDBlockCommand() *cobra.Command {
	var f idBlockFlags
	cmd := &cobra.Command{
		Use:   "id-block --digest DIGEST --id-key FILE [--author-key FILE]",
		Short: "Make and check SNP ID blocks",
		Long: `Make an ID block and its ID authentication information. With them the AMD-SP refuses to
run a guest with another launch digest or policy. The guest's reports carry the digests
of the keys that signed them, FAMILY_ID, IMAGE_ID and GUEST_SVN.

Keys are P-384 private keys in PEM, SEC 1 or PKCS #8. The same inputs give the
same bytes. The command prints the properties of QEMU's sev-snp-guest object in base64,
then the key digests in hex. With --json it prints a fragment of refval.json that
accepts no other ID block.`,
		Example: `  openssl ecparam -genkey -name secp384r1 -noout -out id.pem
  rootvouch measure id-block --digest 5a1c… --id-key id.pem --guest-svn 3`,
		Args: command.NoArguments,
		RunE: func(cmd *cobra.Command, _ []string) error { return f.make(cmd.OutOrStdout()) },
	}
	flags := cmd.Flags()
	flags.StringVar(&f.digest, "digest", "", "launch digest of the ID block, in hex")
	flags.StringVar(&f.idKey, "id-key", "", "PEM file of the private key that signs the ID block")
	flags.StringVar(&f.authorKey, "author-key", "", "PEM file of the private key that signs the ID key")
	flags.StringVar(&f.familyID, "family-id", "", "FAMILY_ID, 32 hex digits (default: zero)")
	flags.StringVar(&f.imageID, "image-id", "", "IMAGE_ID, 32 hex digits (default: zero)")
	cli.Number(cmd, &f.guestSVN, "guest-svn", 0, "GUEST_SVN, the guest's security version number")
	cli.Number(cmd, &f.policy, "policy", 0x30000, "guest policy")
	flags.BoolVar(&f.json, "json", false, "print JSON (a fragment of refval.json)")
	command.Require(cmd, "digest", "id-key")
	command.NotEmpty(cmd, "author-key", "family-id", "image-id")
	command.LeavesNothing(cmd)
	cmd.AddCommand(newIDBlockCheckCommand())
	return cmd
}

func newIDBlockCheckCommand() *cobra.Command {
	var f idBlockFlags
	cmd := &cobra.Command{
		Use:   "check --id-block BASE64 --id-auth BASE64 [--digest DIGEST]",
		Short: "Check an ID block and show what it says",
		Long: `Check the form of an ID block and its ID authentication information and every
signature in them, and show what they say. With --digest, the ID block must be for
that launch digest. Compare the digests of the keys yourself: the command cannot know
the right keys.`,
		Example: `  rootvouch measure id-block --digest 5a1c… --id-key id.pem >signed
  rootvouch measure id-block check --id-block "$(sed -n s/^id-block=//p signed)" \
    --id-auth "$(sed -n s/^id-auth=//p signed)"`,
		Args: command.NoArguments,
		RunE: func(cmd *cobra.Command, _ []string) error { return f.check(cmd.OutOrStdout()) },
	}
	flags := cmd.Flags()
	flags.StringVar(&f.block, "id-block", "", "ID block in base64 (as for QEMU)")
	flags.StringVar(&f.auth, "id-auth", "", "ID authentication information in base64 (as for QEMU)")
	flags.StringVar(&f.digest, "digest", "", "launch digest of the ID block, in hex")
	flags.BoolVar(&f.json, "json", false, "print JSON (a fragment of refval.json)")
	command.Require(cmd, "id-block", "id-auth")
	command.NotEmpty(cmd, "digest")
	command.LeavesNothing(cmd)
	return cmd
}

func (f *idBlockFlags) make(out io.Writer) error {
	b := idblock.Block{GuestSVN: f.guestSVN, Policy: snp.Policy(f.policy)}
	var err error
	if b.LaunchDigest, err = snp.ParseMeasurement(strings.ToLower(f.digest)); err != nil {
		return command.Usage(fmt.Errorf("--digest: %w", err))
	}
	if b.FamilyID, err = parseGuestID(f.familyID); err != nil {
		return command.Usage(fmt.Errorf("--family-id: %w", err))
	}
	if b.ImageID, err = parseGuestID(f.imageID); err != nil {
		return command.Usage(fmt.Errorf("--image-id: %w", err))
	}
	if err := b.Check(); err != nil {
		return command.Usage(err)
	}
	idKey, err := readPrivateKey(f.idKey)
	if err != nil {
		return fmt.Errorf("reading ID key: %w", err)
	}
	var authorKey *ecdsa.PrivateKey
	if f.authorKey != "" {
		if authorKey, err = readPrivateKey(f.authorKey); err != nil {
			return fmt.Errorf("reading author key: %w", err)
		}
	}
	signed, err := idblock.Sign(b, idKey, authorKey)
	if err != nil {
		return err
	}
	if f.json {
		return printIDFragment(out, signed)
	}
	var text bytes.Buffer
	fmt.Fprintf(&text, "id-block=%s\n", base64.StdEncoding.EncodeToString(signed.Block.Marshal()))
	fmt.Fprintf(&text, "id-auth=%s\n", base64.StdEncoding.EncodeToString(signed.Auth()))
	fmt.Fprintf(&text, "author-key-enabled=%t\n", authorKey != nil)
	fmt.Fprintf(&text, "id-key-digest: %v\n", signed.IDKeyDigest())
	fmt.Fprintf(&text, "author-key-digest: %v\n", signed.AuthorKeyDigest())
	_, err = text.WriteTo(out)
	return err
}

func (f *idBlockFlags) check(out io.Writer) error {
	block, err := base64.StdEncoding.Strict().DecodeString(f.block)
	if err != nil {
		return command.Usage(fmt.Errorf("--id-block: %w", err))
	}
	auth, err := base64.StdEncoding.Strict().DecodeString(f.auth)
	if err != nil {
		return command.Usage(fmt.Errorf("--id-auth: %w", err))
	}
	signed, err := idblock.Parse(block, auth)
	if err != nil {
		return err
	}
	b := signed.Block
	if f.digest != "" {
		want, err := snp.ParseMeasurement(strings.ToLower(f.digest))
		if err != nil {
			return command.Usage(fmt.Errorf("--digest: %w", err))
		}
		if b.LaunchDigest != want {
			return fmt.Errorf("checking ID block: LD is %v, want %v", b.LaunchDigest, want)
		}
	}
	if f.json {
		return printIDFragment(out, signed)
	}
	var text bytes.Buffer
	fmt.Fprintf(&text, "launch-digest: %v\n", b.LaunchDigest)
	fmt.Fprintf(&text, "family-id: %v\nimage-id: %v\n", b.FamilyID, b.ImageID)
	fmt.Fprintf(&text, "guest-svn: %d\npolicy: %v\n", b.GuestSVN, b.Policy)
	fmt.Fprintf(&text, "id-key-digest: %v\n", signed.IDKeyDigest())
	fmt.Fprintf(&text, "author-key-digest: %v\n", signed.AuthorKeyDigest())
	_, err = text.WriteTo(out)
	return err
}

// printIDFragment prints the part of refval.json that accepts only this ID block.
func printIDFragment(out io.Writer, s *idblock.Signed) error {
	return cli.PrintJSON(out, struct {
		MinimumGuestSVN  refval.Want[uint32]          `json:"minimum_guest_svn"`
		IDKeyDigests     refval.Want[[]snp.KeyDigest] `json:"id_key_digests"`
		AuthorKeyDigests refval.Want[[]snp.KeyDigest] `json:"author_key_digests"`
		FamilyID         refval.Want[snp.GuestID]     `json:"family_id"`
		ImageID          refval.Want[snp.GuestID]     `json:"image_id"`
	}{
		MinimumGuestSVN:  refval.Exactly(s.Block.GuestSVN),
		IDKeyDigests:     refval.Exactly([]snp.KeyDigest{s.IDKeyDigest()}),
		AuthorKeyDigests: refval.Exactly([]snp.KeyDigest{s.AuthorKeyDigest()}),
		FamilyID:         refval.Exactly(s.Block.FamilyID),
		ImageID:          refval.Exactly(s.Block.ImageID),
	})
}

func parseGuestID(s string) (id snp.GuestID, err error) {
	if s == "" {
		return id, nil
	}
	if err := id.UnmarshalText([]byte(s)); err != nil {
		return id, err
	}
	return id, nil
}

// readPrivateKey reads a private key from a PEM file and wipes the file's text.
func readPrivateKey(path string) (*ecdsa.PrivateKey, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	defer clear(text)
	return idblock.ParsePrivateKey(text)
}
