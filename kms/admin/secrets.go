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

// makeKey answers with a key that was made here, and is in the book already.
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

// Recipients are whom keys may be exported to, as age has them. They come from the server's
// configuration alone: whoever asks for an export cannot name another one.
type Recipients struct {
	names []string
	all   []age.Recipient
}

// ParseRecipients reads age recipients, "age1…".
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

// errNoRecipients says that nothing may be exported.
var errNoRecipients = errors.New("break_glass in the server's configuration names nobody whom a key could be exported to")

// export answers with a disk's key, sealed to the recipients of the configuration. The leaf
// for the log is durable before it leaves.
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

// seal writes an armored age file.
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

// backuper is an engine that can be copied while it is used.
type backuper interface{ Backup(io.Writer) error }

// backupStep bounds the time for each piece of a backup.
const backupStep = 30 * time.Second

// backup answers with a copy of the store. It is whole if the answer ends as HTTP says.
func (a *Admin) backup(w http.ResponseWriter, r *http.Request, by audit.Actor) {
	engine, ok := a.ledger.Records.Engine.(backuper)
	if !ok {
		a.fail(w, r, by, fmt.Errorf("%w: this store's engine has a way of its own to make a copy", errInvalid))
		return
	}
	if err := a.ledger.Note(r.Context(), audit.Entry{Event: audit.Backup, About: audit.AboutBackup{Actor: by.Name, Ticket: by.Ticket}}); err != nil {
		a.fail(w, r, by, err)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	if err := engine.Backup(&patient{w, http.NewResponseController(w)}); err != nil {
		a.notes.Warn("backup", "actor", by.Name, "err", err)
		panic(http.ErrAbortHandler) // so that the reader knows that it is not whole
	}
}

// patient lets an answer take its time, as long as its reader takes pieces of it.
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
