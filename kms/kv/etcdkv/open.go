package etcdkv

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// Source says where a cluster is, and how its members and we know each other. Paths are as
// the operating system takes them.
type Source struct {
	// Endpoints are the members' URLs, https://HOST:PORT. http:// is taken for this
	// machine alone.
	Endpoints []string `json:"endpoints"`
	// Prefix is before each key; at its end is a slash. Two books of one cluster have two.
	Prefix string `json:"prefix"`
	// CAFile has the certificates (PEM) that the members' are signed with; CertFile and
	// KeyFile are ours. All three, or for http none.
	CAFile   string `json:"ca_file,omitempty"`
	CertFile string `json:"cert_file,omitempty"`
	KeyFile  string `json:"key_file,omitempty"`
}

// Check reports whether a source is whole. It reads no file.
func (s Source) Check() error {
	var errs []error
	if len(s.Endpoints) == 0 {
		errs = append(errs, errors.New("endpoints: there are none"))
	}
	secure := 0
	for _, e := range s.Endpoints {
		u, err := url.Parse(e)
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("endpoints: %w", err))
		case u.Host == "" || u.Port() == "" || u.Path != "" || u.RawQuery != "" || u.User != nil || u.Fragment != "":
			errs = append(errs, fmt.Errorf("endpoints: got %q, want https://HOST:PORT", e))
		case u.Scheme == "https":
			secure++
		case u.Scheme != "http":
			errs = append(errs, fmt.Errorf("endpoints: got %q, want https://HOST:PORT", e))
		case !loopback(u.Hostname()):
			errs = append(errs, fmt.Errorf("endpoints: got %q, want https: http is for this machine alone", e))
		}
	}
	if secure > 0 && secure < len(s.Endpoints) {
		errs = append(errs, errors.New("endpoints: some are https and some http, want one of them"))
	}
	if s.Prefix == "" || !strings.HasSuffix(s.Prefix, "/") || strings.ContainsRune(s.Prefix, 0) {
		errs = append(errs, fmt.Errorf("prefix is %q, want one that ends with a slash", s.Prefix))
	}
	given := 0
	for _, f := range []string{s.CAFile, s.CertFile, s.KeyFile} {
		if f != "" {
			given++
		}
	}
	switch {
	case secure > 0 && given < 3:
		errs = append(errs, errors.New("ca_file, cert_file and key_file: want all three with https"))
	case secure == 0 && given > 0:
		errs = append(errs, errors.New("ca_file, cert_file and key_file: want none with http"))
	}
	return errors.Join(errs...)
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

// tls reads the files. They are read again for each handshake, so that a renewed
// certificate counts.
func (s Source) tls() (*tls.Config, error) {
	if s.CAFile == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(s.CAFile)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s has no certificate", s.CAFile)
	}
	ours := func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		pair, err := tls.LoadX509KeyPair(s.CertFile, s.KeyFile)
		return &pair, err
	}
	if _, err := ours(nil); err != nil {
		return nil, err
	}
	return &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots, GetClientCertificate: ours}, nil
}

// A member that does not answer is left after keepAlive and keepAliveTimeout.
const (
	keepAlive        = 10 * time.Second // the least that gRPC takes
	keepAliveTimeout = 2 * time.Second
)

// Open makes a client of a cluster, and waits until a majority of it answers or ctx is done.
// There need be no book yet.
func Open(ctx context.Context, source Source) (*Store, error) {
	s, err := open(ctx, source)
	if err != nil {
		return nil, fmt.Errorf("opening etcd %s: %w", strings.Join(source.Endpoints, ","), err)
	}
	return s, nil
}

func open(ctx context.Context, source Source) (*Store, error) {
	if err := source.Check(); err != nil {
		return nil, err
	}
	config, err := source.tls()
	if err != nil {
		return nil, err
	}
	client, err := clientv3.New(clientv3.Config{
		Endpoints: source.Endpoints, TLS: config, Logger: zap.NewNop(), MaxUnaryRetries: 1,
		DialKeepAliveTime: keepAlive, DialKeepAliveTimeout: keepAliveTimeout, PermitWithoutStream: true,
	})
	if err != nil {
		return nil, err
	}
	s := &Store{client: client, prefix: source.Prefix}
	if _, err := s.Revision(ctx); err != nil {
		return nil, errors.Join(err, client.Close())
	}
	return s, nil
}
