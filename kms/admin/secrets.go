package admin

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"filippo.io/age"
	"filippo.io/age/armor"

	"github.com/rootvouch/rootvouch/kms/adminapi"
	"github.com/rootvouch/rootvouch/kms/audit"
	"github.com/rootvouch/rootvouch/kms/store"
)

// makeKey makes a key, stores it, and then answers with it.
func (a *Admin) makeKey(w http.ResponseWriter, r *http.Request, by audit.Actor) {
	id, key, err := a.ledger.MakeKey(r.Context(), by)
	if err != nil {
		a.fail(w, r, by, err)
		return
	}
	defer clear(key)
	body, err := adminapi.EncodeKeyed(adminapi.MadeKey{Version: adminapi.Version, ID: id, Until: a.ledger.Now().UTC().Add(store.MadeLife)}, key)
	if err != nil {
		panic("admin: internal error: " + err.Error())
	}
	defer clear(body)
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Write(body)
}

// Recipients are the age recipients to which keys may be exported. They come from the server's
// configuration alone: a request cannot name another recipient.
type Recipients struct {
	names []string
	all   []age.Recipient
}

// ParseRecipients parses age recipients, "age1…".
func ParseRecipients(names []string) (Recipients, error) {
	if len(names) > audit.MaxRecipients {
		return Recipients{}, fmt.Errorf("there are %d recipients, want at most %d", len(names), audit.MaxRecipients)
	}
	var r Recipients
	for _, name := range names {
		all, err := age.ParseRecipients(bytes.NewReader([]byte(name)))
		if err != nil || len(all) != 1 {
			return Recipients{}, fmt.Errorf("recipient %.70q: want one age recipient: %v", name, err)
		}
		r.names, r.all = append(r.names, name), append(r.all, all...)
	}
	return r, nil
}

// errNoRecipients says that no recipient is configured, so no key may be exported.
var errNoRecipients = errors.New("break_glass in the server's configuration names no recipient for an exported key")

// export answers with a disk's key, sealed to the configured recipients. The leaf for the log
// is durable before the key leaves the server.
func (a *Admin) export(by audit.Actor, r *http.Request) (any, error) {
	disk, err := diskOf(r)
	if err != nil {
		return nil, err
	}
	generation, err := generationOf(r)
	if err != nil {
		return nil, err
	}
	if len(a.Recipients.all) == 0 {
		return nil, fmt.Errorf("%w: %v", errRole, errNoRecipients)
	}
	var out bytes.Buffer
	generation, err = a.ledger.Export(r.Context(), by, disk, generation, a.Recipients.names, func(key []byte) error {
		return a.Recipients.seal(&out, key)
	})
	if err != nil {
		return nil, err
	}
	return adminapi.Exported{Version: adminapi.Version, DiskUUID: disk, Generation: generation, Recipients: a.Recipients.names, Sealed: out.String()}, nil
}

// seal writes key as an armored age file.
func (r Recipients) seal(out *bytes.Buffer, key []byte) error {
	out.Reset()
	armored := armor.NewWriter(out)
	w, err := age.Encrypt(armored, r.all...)
	if err != nil {
		return fmt.Errorf("sealing a key: %w", err)
	}
	if _, err := w.Write(key); err != nil {
		return fmt.Errorf("sealing a key: %w", err)
	}
	if err := w.Close(); err != nil {
		return fmt.Errorf("sealing a key: %w", err)
	}
	return armored.Close()
}

// backuper is an engine that can be copied while it is in use.
type backuper interface{ Backup(io.Writer) error }

// backupStep bounds the time for each piece of a backup.
const backupStep = 30 * time.Second

// backup answers with a copy of the store. The copy is complete if the HTTP answer ends
// properly.
func (a *Admin) backup(w http.ResponseWriter, r *http.Request, by audit.Actor) {
	engine, ok := a.ledger.Records.Engine.(backuper)
	if !ok {
		a.fail(w, r, by, fmt.Errorf("%w: copy this store with its engine's own tool", errInvalid))
		return
	}
	if err := a.ledger.Note(r.Context(), audit.Entry{Event: audit.Backup, About: audit.AboutBackup{Actor: by.Name, Ticket: by.Ticket}}); err != nil {
		a.fail(w, r, by, err)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	if err := engine.Backup(&patient{w, http.NewResponseController(w)}); err != nil {
		a.notes.Warn("backup", "actor", by.Name, "err", err)
		panic(http.ErrAbortHandler) // tells the reader that the copy is incomplete
	}
}

// patient lets an answer take long, as long as its reader keeps reading.
type patient struct {
	w       io.Writer
	control *http.ResponseController
}

func (p *patient) Write(b []byte) (int, error) {
	if err := p.control.SetWriteDeadline(time.Now().Add(backupStep)); err != nil {
		return 0, err
	}
	return p.w.Write(b)
}
