package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/mod/sumdb/note"

	"github.com/rootvouch/rootvouch/internal/command"
	"github.com/rootvouch/rootvouch/kms/audit"
	"github.com/rootvouch/rootvouch/kms/replay"
	"github.com/rootvouch/rootvouch/kms/tlogdir"
	"github.com/rootvouch/rootvouch/pins"
)

func newAuditCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "audit",
		Short: "Read, verify and replay the log of releases, refusals and changes",
		Long: `Read the transparency log of a key server. All these commands need only the log's
directory, or a copy of it, and may run beside the server. They verify what they read:
each leaf hashes to the root of the signed checkpoint.

The directory has a key that verifies its checkpoint. Whoever can write to the directory
can replace that key. So give the key that the server had at its set-up with --log-key.`,
	}
	cmd.AddCommand(newAuditListCommand(), newAuditShowCommand(), newAuditVerifyCommand(), newAuditReplayCommand(), newAuditExportCommand())
	return cmd
}

// logFlags say which log to read.
type logFlags struct{ key string }

func (f *logFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.key, "log-key", "", "key that verifies the log: NAME+HASH+KEY (rootvouch keys status)")
	command.NotEmpty(cmd, "log-key")
}

// open reads the newest checkpoint of the log at path.
func (f *logFlags) open(path string) (tlogdir.Dir, tlogdir.Tree, note.Verifier, error) {
	dir := tlogdir.Dir(path)
	key := f.key
	if key == "" {
		var err error
		if key, err = dir.Key(); err != nil {
			return dir, tlogdir.Tree{}, nil, err
		}
	}
	verifier, err := note.NewVerifier(key)
	if err != nil {
		return dir, tlogdir.Tree{}, nil, command.Usage(fmt.Errorf("log key %q: %w", key, err))
	}
	signed, err := dir.Checkpoint()
	if err != nil {
		return dir, tlogdir.Tree{}, nil, err
	}
	tree, err := tlogdir.OpenCheckpoint(signed, verifier)
	return dir, tree, verifier, err
}

// leafFilter selects leaves.
type leafFilter struct {
	disk, spiffeID, event string
	since                 time.Duration
}

func (f *leafFilter) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.disk, "disk-uuid", "", "UUID of the disk")
	cmd.Flags().StringVar(&f.spiffeID, "caller", "", "only leaves about this SPIFFE ID")
	cmd.Flags().StringVar(&f.event, "event", "", `only this event, for example "refusal"`)
	cmd.Flags().DurationVar(&f.since, "since", 0, "only leaves that are not older, such as 24h")
}

func (f *leafFilter) check() error {
	if f.disk != "" {
		if _, err := pins.ParseUUID(f.disk); err != nil {
			return command.Usage(fmt.Errorf("--disk-uuid: %w", err))
		}
	}
	if f.event != "" && !audit.Known(audit.Event(f.event)) {
		return command.Usage(fmt.Errorf("--event is %q, want one of %v", f.event, audit.Events()))
	}
	if f.since < 0 {
		return command.Usage(fmt.Errorf("--since is %s, want a time that has passed", f.since))
	}
	return nil
}

func (f *leafFilter) takes(leaf audit.Leaf, now time.Time) bool {
	line := leaf.Summary()
	return (f.disk == "" || line.Disk == f.disk) && (f.spiffeID == "" || line.SPIFFEID == f.spiffeID) &&
		(f.event == "" || string(leaf.Event) == f.event) && (f.since == 0 || now.Sub(leaf.Time) <= f.since)
}

func newAuditListCommand() *cobra.Command {
	var log logFlags
	var filter leafFilter
	cmd := &cobra.Command{
		Use:   "list LOG-DIR",
		Short: "List events, oldest first: which callers got which key, and why others got none",
		Example: `  rootvouch-kms audit list --event refusal --since 24h /var/lib/rootvouch-kms/log
  rootvouch-kms audit list --disk-uuid 0f2e4c5a-9b1d-4f7e-8a63-5c1d2e3f4a5b /var/lib/rootvouch-kms/log`,
		Args: cobra.ExactArgs(1),
	}
	log.add(cmd)
	filter.add(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := filter.check(); err != nil {
			return err
		}
		dir, tree, _, err := log.open(args[0])
		if err != nil {
			return err
		}
		now := time.Now()
		table := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
		fmt.Fprintln(table, "LEAF\tTIME\tEVENT\tDISK\tSPIFFE ID\tWHAT")
		err = replay.Read(dir, tree, func(index int64, leaf audit.Leaf, _ []byte) error {
			if filter.takes(leaf, now) {
				line := leaf.Summary()
				fmt.Fprintf(table, "%d\t%s\t%s\t%s\t%s\t%s\n", index, leaf.Time.Format(time.RFC3339), leaf.Event,
					dash(line.Disk), dash(line.SPIFFEID), dash(fmt.Sprintf("%.200s", line.What)))
			}
			return nil
		})
		return errors.Join(err, table.Flush())
	}
	return cmd
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func newAuditShowCommand() *cobra.Command {
	var log logFlags
	cmd := &cobra.Command{
		Use:     "show LOG-DIR LEAF",
		Short:   "Show one leaf, as JSON",
		Example: "  rootvouch-kms audit show /var/lib/rootvouch-kms/log 42",
		Args:    cobra.ExactArgs(2),
	}
	log.add(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		want, err := strconv.ParseInt(args[1], 10, 64)
		if err != nil || want < 0 {
			return command.Usage(fmt.Errorf("leaf is %q, want a number from `audit list`", args[1]))
		}
		dir, tree, _, err := log.open(args[0])
		if err != nil {
			return err
		}
		if want >= tree.Size {
			return fmt.Errorf("log has %d leaves, but no leaf %d", tree.Size, want)
		}
		err = dir.Read(tree, want, func(_ int64, data []byte) error {
			if _, err := audit.Decode(data); err != nil {
				return err
			}
			encoder := json.NewEncoder(cmd.OutOrStdout())
			encoder.SetIndent("", "  ")
			if err := encoder.Encode(json.RawMessage(data)); err != nil {
				return err
			}
			return io.EOF // it was the wanted leaf
		})
		if errors.Is(err, io.EOF) {
			return nil
		}
		return err
	}
	return cmd
}

func newAuditVerifyCommand() *cobra.Command {
	var log logFlags
	var checkpoint string
	var witnesses []string
	cmd := &cobra.Command{
		Use:   "verify LOG-DIR",
		Short: "Verify a log, and that it extends a checkpoint that was kept",
		Long: `Verify a log: the signature of the checkpoint, that every leaf hashes to its root, that
each leaf follows the one before it in its lane, and that the contents that leaves name
stand beside the log.

A server that can sign can also sign a different log. A checkpoint that was kept where
the server cannot change it shows that: give it with --checkpoint, and this log must
have all its leaves in their places. Such a checkpoint is a copy of the file
"checkpoint", or the output of "rootvouch keys status --checkpoint-only".

--witness also wants the cosignature of a witness, which has seen that the log only
grew. It must be on the newest cosigned checkpoint, and this log must have all leaves
of that checkpoint.`,
		Example: "  rootvouch-kms audit verify --log-key example.org/kms+… --checkpoint kept /var/lib/rootvouch-kms/log",
		Args:    cobra.ExactArgs(1),
	}
	log.add(cmd)
	cmd.Flags().StringVar(&checkpoint, "checkpoint", "", "file with a checkpoint that was kept earlier")
	cmd.Flags().StringArrayVar(&witnesses, "witness", nil, "key of a witness that must have cosigned; may be given again")
	command.NotEmpty(cmd, "checkpoint")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		var wanted []note.Verifier
		for _, key := range witnesses {
			w, err := tlogdir.NewWitness(key)
			if err != nil {
				return command.Usage(err)
			}
			wanted = append(wanted, w)
		}
		var cosigned []byte
		if len(wanted) > 0 { // read before the checkpoint, which a server may replace meanwhile
			var err error
			if cosigned, err = tlogdir.Dir(args[0]).Cosigned(); err != nil {
				return err
			}
		}
		dir, tree, verifier, err := log.open(args[0])
		if err != nil {
			return err
		}
		if len(wanted) > 0 {
			if err := checkCosigned(cmd.OutOrStdout(), dir, tree, cosigned, verifier, wanted); err != nil {
				return err
			}
		}
		var kept tlogdir.Tree
		if checkpoint != "" {
			signed, err := os.ReadFile(checkpoint)
			if err != nil {
				return err
			}
			if kept, err = tlogdir.OpenCheckpoint(signed, verifier); err != nil {
				return fmt.Errorf("%s: %w", checkpoint, err)
			}
			if err := dir.CheckExtends(kept, tree); err != nil {
				return err
			}
		}
		return verifyLog(cmd.OutOrStdout(), dir, tree, kept, log.key != "", checkpoint != "")
	}
	return cmd
}

// checkCosigned compares a log with the newest checkpoint that witnesses cosigned.
func checkCosigned(out io.Writer, dir tlogdir.Dir, tree tlogdir.Tree, signed []byte, log note.Verifier, witnesses []note.Verifier) error {
	cosigned, err := tlogdir.OpenCheckpoint(signed, log, witnesses...)
	if err != nil {
		return err
	}
	if err := dir.CheckExtends(cosigned, tree); err != nil {
		return fmt.Errorf("verifying the cosigned checkpoint: %w", err)
	}
	_, err = fmt.Fprintf(out, "witnesses cosigned leaves 0 to %d\n", cosigned.Size-1)
	return err
}

func verifyLog(out io.Writer, dir tlogdir.Dir, tree, kept tlogdir.Tree, ownKey, ownCheckpoint bool) error {
	seen := map[pins.Digest]bool{}
	err := replay.Read(dir, tree, func(index int64, leaf audit.Leaf, _ []byte) error {
		if err := replay.CheckContents(dir, leaf, seen); err != nil {
			return fmt.Errorf("leaf %d: %w", index, err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "log %s: %d leaves, root %s\n", tree.Origin, tree.Size, tree.Root)
	if !ownKey {
		fmt.Fprintln(out, "note: the key comes from the directory: without --log-key this detects accidents, but not a log that was made anew")
	}
	if ownCheckpoint {
		fmt.Fprintf(out, "leaves 0 to %d are unchanged since the checkpoint was kept\n", kept.Size-1)
	} else {
		fmt.Fprintln(out, "note: without --checkpoint this cannot detect a log that the server itself signed anew")
	}
	return nil
}

func newAuditReplayCommand() *cobra.Command {
	var log logFlags
	cmd := &cobra.Command{
		Use:   "replay LOG-DIR",
		Short: "Judge every release again, from the log alone",
		Long: `Judge every release again as the server did. The inputs are the record as the log has
it, the caller's identity, and the evidence with the reference values, certificates and
CRLs of that time. Also check that no launch got a key twice. The log does not say
whether the caller's SVID was genuine.`,
		Example: "  rootvouch-kms audit replay /var/lib/rootvouch-kms/log",
		Args:    cobra.ExactArgs(1),
	}
	log.add(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		dir, tree, _, err := log.open(args[0])
		if err != nil {
			return err
		}
		judge := replay.NewJudge(dir, retryWindow)
		wrong := 0
		err = replay.Read(dir, tree, func(index int64, leaf audit.Leaf, _ []byte) error {
			if err := judge.Next(leaf); err != nil {
				wrong++
				fmt.Fprintf(cmd.OutOrStdout(), "leaf %d: %s of disk %s: %v\n", index, leaf.Event, leaf.Summary().Disk, err)
			}
			return nil
		})
		if err != nil {
			return err
		}
		fmt.Fprintf(cmd.OutOrStdout(), "%d releases were judged again, %d of them by evidence: %d should not have happened\n", judge.Releases, judge.Appraised, wrong)
		if wrong > 0 {
			return fmt.Errorf("%d releases should not have happened", wrong)
		}
		return nil
	}
	return cmd
}

func newAuditExportCommand() *cobra.Command {
	var log logFlags
	var filter leafFilter
	var jsonl bool
	cmd := &cobra.Command{
		Use:     "export --jsonl LOG-DIR",
		Short:   "Write leaves as lines of JSON, for other tools",
		Example: "  rootvouch-kms audit export --jsonl --since 24h /var/lib/rootvouch-kms/log",
		Args:    cobra.ExactArgs(1),
	}
	log.add(cmd)
	filter.add(cmd)
	cmd.Flags().BoolVar(&jsonl, "jsonl", false, "one JSON object per line")
	command.Require(cmd, "jsonl")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := filter.check(); err != nil {
			return err
		}
		dir, tree, _, err := log.open(args[0])
		if err != nil {
			return err
		}
		now := time.Now()
		return replay.Read(dir, tree, func(index int64, leaf audit.Leaf, data []byte) error {
			if !filter.takes(leaf, now) {
				return nil
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "{\"leaf\":%d,\"is\":%s}\n", index, data)
			return err
		})
	}
	return cmd
}
