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

// Source says where a cluster is, and how its members and this server authenticate each other.
// Paths are operating system paths.
type Source struct {
	// Endpoints are the members' URLs, https://HOST:PORT. http:// is allowed only on this
	// machine.
	Endpoints []string `json:"endpoints"`
	// Prefix begins each key and ends with a slash. Two stores in one cluster need different
	// prefixes.
	Prefix string `json:"prefix"`
	// CAFile has the CA certificates (PEM) of the members. CertFile and KeyFile are this
	// server's. With https all three are set, with http none.
	CAFile   string `json:"ca_file,omitempty"`
	CertFile string `json:"cert_file,omitempty"`
	KeyFile  string `json:"key_file,omitempty"`
}

// Check returns an error unless a source is complete. It reads no file.
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
			errs = append(errs, fmt.Errorf("endpoints: got %q, want https: http is allowed only on this machine", e))
		}
	}
	if secure > 0 && secure < len(s.Endpoints) {
		errs = append(errs, errors.New("endpoints: some are https and some http, want one scheme"))
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

// tls reads the files. They are read again for each handshake, so that a renewed certificate
// takes effect.
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

// If a member does not answer within keepAlive and keepAliveTimeout, the client drops its
// connection.
const (
	keepAlive        = 10 * time.Second // the least that gRPC accepts
	keepAliveTimeout = 2 * time.Second
)

// Open makes a client of a cluster. It waits until a majority of the members answers or ctx is
// done. The cluster may still be without a store.
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
