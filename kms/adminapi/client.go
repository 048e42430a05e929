package adminapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rootvouch/rootvouch/internal/strictjson"
	"github.com/rootvouch/rootvouch/pins"
)

// timeout bounds one request.
const timeout = 30 * time.Second

// Error is a failure that the server reported.
type Error struct {
	Status  int // HTTP status
	Message string
}

func (e *Error) Error() string { return "key server: " + e.Message }

// Client speaks to the server behind one admin socket.
type Client struct {
	// Ticket gives the reason for changes. The reason goes on the log. Ticket may be empty.
	Ticket string

	http *http.Client
}

// NewClient makes a client for the socket at path. It opens nothing yet. The server must run
// as root, as this process's own user or as one of the given user IDs. For any other server
// requests fail with a *PeerError, and the client sends nothing.
func NewClient(path string, users ...uint32) *Client { return newClient(path, Peer, users) }

// newClient makes a client that calls peer to find out who serves a connection.
func newClient(path string, peer func(net.Conn) (unix.Ucred, error), users []uint32) *Client {
	var dialer net.Dialer
	return &Client{http: &http.Client{
		Timeout: timeout,
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				conn, err := dialer.DialContext(ctx, "unix", path)
				if err != nil {
					return nil, err
				}
				if err := checkServer(conn, peer, path, users); err != nil {
					conn.Close()
					return nil, err
				}
				return conn, nil
			},
			DisableKeepAlives: true,
		},
	}}
}

// Put registers a record with its key. The error is an *Error with status 409 if the disk
// already has a record, or if another disk's record overlaps.
func (c *Client) Put(ctx context.Context, p Put, key []byte) (Record, error) {
	p.Version = Version
	body, err := EncodePut(p, key)
	if err != nil {
		return Record{}, err
	}
	defer clear(body)
	var r Record
	err = c.do(ctx, http.MethodPut, PathDisks+"/"+p.DiskUUID.String(), body, &r)
	return r, err
}

// MakeKey asks the server to make a key for a disk that will be built. The caller wipes it.
func (c *Client) MakeKey(ctx context.Context) (MadeKey, []byte, error) {
	response, err := c.ask(ctx, c.http, http.MethodPost, PathKeys, nil)
	if err != nil {
		return MadeKey{}, nil, err
	}
	defer response.Body.Close()
	document, key, err := ReadKeyed(response.Body)
	var made MadeKey
	if err == nil {
		err = strictjson.Unmarshal(document, &made)
	}
	if err == nil && key == nil {
		err = errors.New("answer has no key")
	}
	if err != nil {
		clear(key)
		return MadeKey{}, nil, fmt.Errorf("reading the key server's answer: %w", err)
	}
	return made, key, nil
}

// Get returns one record with its reference values.
func (c *Client) Get(ctx context.Context, disk pins.UUID) (Record, error) {
	var r Record
	err := c.do(ctx, http.MethodGet, PathDisks+"/"+disk.String(), nil, &r)
	return r, err
}

// List returns all records, by disk UUID, without their reference values.
func (c *Client) List(ctx context.Context) ([]Record, error) {
	all := []Record{}
	for q := (Query{Limit: MaxPage}); ; {
		page, err := c.Page(ctx, q)
		if err != nil {
			return nil, err
		}
		all = append(all, page.Records...)
		if page.Next == (pins.UUID{}) {
			return all, nil
		}
		q.After = page.Next
	}
}

// Page returns a page of records, without their reference values.
func (c *Client) Page(ctx context.Context, q Query) (Records, error) {
	var r Records
	err := c.do(ctx, http.MethodGet, PathDisks+"?"+q.Encode(), nil, &r)
	return r, err
}

// Kept returns a page of the records of all disks that are no longer in force. The page begins
// after the given record, or at the start if after is "".
func (c *Client) Kept(ctx context.Context, after pins.UUID, generation uint64) (Records, error) {
	v := url.Values{}
	if after != (pins.UUID{}) {
		v.Set("after", after.String())
		v.Set("generation", strconv.FormatUint(generation, 10))
	}
	var r Records
	err := c.do(ctx, http.MethodGet, PathKept+"?"+v.Encode(), nil, &r)
	return r, err
}

// Update changes what a disk's record accepts, without its key.
func (c *Client) Update(ctx context.Context, disk pins.UUID, u Update) (Record, error) {
	u.Version = Version
	body, err := json.Marshal(u)
	if err != nil {
		return Record{}, fmt.Errorf("encoding the update: %v", err)
	}
	return c.change(ctx, disk, "update", body)
}

// Enable lets a disk's key be released.
func (c *Client) Enable(ctx context.Context, disk pins.UUID) (Record, error) {
	return c.change(ctx, disk, "enable", nil)
}

// Revive enables a record that was retired.
func (c *Client) Revive(ctx context.Context, disk pins.UUID) (Record, error) {
	return c.change(ctx, disk, "revive", nil)
}

// Disable keeps a disk's key from being released.
func (c *Client) Disable(ctx context.Context, disk pins.UUID) (Record, error) {
	return c.change(ctx, disk, "disable", nil)
}

// Retire disables a disk's record for good. A retired record overlaps with no other.
func (c *Client) Retire(ctx context.Context, disk pins.UUID) (Record, error) {
	return c.change(ctx, disk, "retire", nil)
}

// Confirm lets the record that waits beside a disk's own replace it. generation names the
// waiting record; 0 means any.
func (c *Client) Confirm(ctx context.Context, disk pins.UUID, generation uint64) (Record, error) {
	return c.change(ctx, disk, "confirm?generation="+strconv.FormatUint(generation, 10), nil)
}

// Withdraw takes back the record that waits beside a disk's own.
func (c *Client) Withdraw(ctx context.Context, disk pins.UUID) (Record, error) {
	return c.change(ctx, disk, "withdraw", nil)
}

// Restore puts a record back in force. generation names it; 0 means the newest record that is
// out of force.
func (c *Client) Restore(ctx context.Context, disk pins.UUID, generation uint64) (Record, error) {
	return c.change(ctx, disk, "restore?generation="+strconv.FormatUint(generation, 10), nil)
}

func (c *Client) change(ctx context.Context, disk pins.UUID, verb string, body []byte) (Record, error) {
	var r Record
	err := c.do(ctx, http.MethodPost, PathDisks+"/"+disk.String()+"/"+verb, body, &r)
	return r, err
}

// Purge destroys records of a disk that are no longer in force, with their keys. generation
// names one; 0 means all. With early it also destroys records whose time has not come. Purge
// returns the number destroyed.
func (c *Client) Purge(ctx context.Context, disk pins.UUID, generation uint64, early bool) (int, error) {
	v := url.Values{"generation": {strconv.FormatUint(generation, 10)}, "early": {strconv.FormatBool(early)}}
	var r Purged
	err := c.do(ctx, http.MethodPost, PathDisks+"/"+disk.String()+"/purge?"+v.Encode(), nil, &r)
	return r.Records, err
}

// Delete removes a disk's record. The server keeps the record for a while, and the list of its
// releases for good.
func (c *Client) Delete(ctx context.Context, disk pins.UUID) error {
	return c.do(ctx, http.MethodDelete, PathDisks+"/"+disk.String(), nil, nil)
}

// Releases returns the launches that got a disk's key, oldest first.
func (c *Client) Releases(ctx context.Context, disk pins.UUID) ([]Release, error) {
	var r Releases
	err := c.do(ctx, http.MethodGet, PathDisks+"/"+disk.String()+"/releases", nil, &r)
	return r.Releases, err
}

// Status returns the server's description of itself.
func (c *Client) Status(ctx context.Context) (Status, error) {
	var s Status
	err := c.do(ctx, http.MethodGet, PathStatus, nil, &s)
	return s, err
}

// Export returns a disk's key, sealed to the recipients in the server's configuration.
// generation names the record; 0 means the one in force.
func (c *Client) Export(ctx context.Context, disk pins.UUID, generation uint64) (Exported, error) {
	var e Exported
	err := c.do(ctx, http.MethodPost, PathDisks+"/"+disk.String()+"/export?generation="+strconv.FormatUint(generation, 10), nil, &e)
	return e, err
}

// Rewrap makes one step of a rewrap. The step begins where the previous one ended.
func (c *Client) Rewrap(ctx context.Context, after string) (Rewrapped, error) {
	var r Rewrapped
	err := c.do(ctx, http.MethodPost, PathRewrap+"?"+url.Values{"after": {after}}.Encode(), nil, &r)
	return r, err
}

// PageOf returns the operator's page and its HTTP header.
func (c *Client) PageOf(ctx context.Context, query string) (http.Header, []byte, error) {
	response, err := c.ask(ctx, c.http, http.MethodGet, PathPage+"?"+query, nil)
	if err != nil {
		return nil, nil, err
	}
	defer response.Body.Close()
	data, err := io.ReadAll(io.LimitReader(response.Body, maxReply))
	return response.Header, data, err
}

// Backup writes a copy of the server's store and returns its size in bytes. Only ctx bounds the
// time.
func (c *Client) Backup(ctx context.Context, w io.Writer) (int64, error) {
	patient := *c.http
	patient.Timeout = 0
	response, err := c.ask(ctx, &patient, http.MethodGet, PathBackup, nil)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	n, err := io.Copy(w, response.Body)
	if err != nil {
		return n, fmt.Errorf("reading the backup: %w", err)
	}
	return n, nil
}

func (c *Client) do(ctx context.Context, method, path string, body []byte, reply any) error {
	response, err := c.ask(ctx, c.http, method, path, body)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	data, err := io.ReadAll(io.LimitReader(response.Body, maxReply))
	if err != nil {
		return fmt.Errorf("reading the key server's answer: %w", err)
	}
	if reply == nil {
		return nil
	}
	if err := strictjson.Unmarshal(data, reply); err != nil {
		return fmt.Errorf("decoding the key server's answer: %v", err)
	}
	return nil
}

// ask sends a request, and returns the answer if its status is 2xx. The caller closes the body.
func (c *Client) ask(ctx context.Context, client *http.Client, method, path string, body []byte) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, method, "http://admin"+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	if c.Ticket != "" {
		request.Header.Set(TicketHeader, c.Ticket)
	}
	response, err := client.Do(request)
	if err != nil {
		// The reader of the error does not need the method and the URL.
		if in, ok := errors.AsType[*url.Error](err); ok {
			err = in.Err
		}
		return nil, fmt.Errorf("asking the key server: %w", err)
	}
	if response.StatusCode == http.StatusOK {
		return response, nil
	}
	defer response.Body.Close()
	data, err := io.ReadAll(io.LimitReader(response.Body, maxReply))
	if err != nil {
		return nil, fmt.Errorf("reading the key server's answer: %w", err)
	}
	var f Failure
	if err := json.Unmarshal(data, &f); err != nil || f.Error == "" {
		f.Error = response.Status
	}
	return nil, &Error{response.StatusCode, f.Error}
}

// maxReply bounds an answer in bytes: a page of records.
const maxReply = 16 << 20
