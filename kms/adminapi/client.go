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
type Client struct{ http *http.Client }

// NewClient makes a client for the socket at path. Nothing is opened yet. Whoever
// serves it must be root, this process's own user, or one of the user IDs given;
// all else gets a *PeerError, and nothing is sent.
func NewClient(path string, users ...uint32) *Client { return newClient(path, Peer, users) }

// newClient asks peer who serves a connection.
func newClient(path string, peer func(net.Conn) (unix.Ucred, error), users []uint32) *Client {
	var dialer net.Dialer
	return &Client{&http.Client{
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

// Put registers a record with its key. The error is an *Error with status 409 when
// the disk has a record, or when another disk's overlaps.
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

// Get returns one record, with its reference values.
func (c *Client) Get(ctx context.Context, disk pins.UUID) (Record, error) {
	var r Record
	err := c.do(ctx, http.MethodGet, PathDisks+"/"+disk.String(), nil, &r)
	return r, err
}

// List returns all records, by disk UUID, without their reference values.
func (c *Client) List(ctx context.Context) ([]Record, error) {
	var r Records
	err := c.do(ctx, http.MethodGet, PathDisks, nil, &r)
	return r.Records, err
}

// Enable lets a disk's key be released.
func (c *Client) Enable(ctx context.Context, disk pins.UUID) (Record, error) {
	var r Record
	err := c.do(ctx, http.MethodPost, PathDisks+"/"+disk.String()+"/enable", nil, &r)
	return r, err
}

// Disable keeps a disk's key from being released.
func (c *Client) Disable(ctx context.Context, disk pins.UUID) (Record, error) {
	var r Record
	err := c.do(ctx, http.MethodPost, PathDisks+"/"+disk.String()+"/disable", nil, &r)
	return r, err
}

// Delete removes a disk's record and key. The server keeps its releases.
func (c *Client) Delete(ctx context.Context, disk pins.UUID) error {
	return c.do(ctx, http.MethodDelete, PathDisks+"/"+disk.String(), nil, nil)
}

// Releases returns the launches that got a disk's key, oldest first.
func (c *Client) Releases(ctx context.Context, disk pins.UUID) ([]Release, error) {
	var r Releases
	err := c.do(ctx, http.MethodGet, PathDisks+"/"+disk.String()+"/releases", nil, &r)
	return r.Releases, err
}

// Status returns what the server tells about itself.
func (c *Client) Status(ctx context.Context) (Status, error) {
	var s Status
	err := c.do(ctx, http.MethodGet, PathStatus, nil, &s)
	return s, err
}

func (c *Client) do(ctx context.Context, method, path string, body []byte, reply any) error {
	request, err := http.NewRequestWithContext(ctx, method, "http://admin"+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	response, err := c.http.Do(request)
	if err != nil {
		// Neither the method nor the URL means anything to who reads this.
		if in, ok := errors.AsType[*url.Error](err); ok {
			err = in.Err
		}
		return fmt.Errorf("asking the key server: %w", err)
	}
	defer response.Body.Close()
	data, err := io.ReadAll(io.LimitReader(response.Body, maxReply))
	if err != nil {
		return fmt.Errorf("reading the key server's answer: %w", err)
	}
	if response.StatusCode != http.StatusOK {
		var f Failure
		if err := json.Unmarshal(data, &f); err != nil || f.Error == "" {
			f.Error = response.Status
		}
		return &Error{response.StatusCode, f.Error}
	}
	if reply == nil {
		return nil
	}
	if err := strictjson.Unmarshal(data, reply); err != nil {
		return fmt.Errorf("decoding the key server's answer: %v", err)
	}
	return nil
}

// maxReply bounds an answer in bytes: a hundred thousand records.
const maxReply = 64 << 20
