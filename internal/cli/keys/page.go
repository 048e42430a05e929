package keys

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/spf13/cobra"

	"github.com/rootvouch/rootvouch/internal/command"
	"github.com/rootvouch/rootvouch/kms/adminapi"
)

func newPageCommand(client connect) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "page --kms-socket SOCKET",
		Short: "Show the key server's state to a browser on this machine",
		Long: `Serve a page for a browser on this machine until SIGINT: disks, the last release of
each, refusals with their reasons, the log and its checkpoint, the age of the revocation
lists. The page is read-only. The key server makes it and shows no more than your role
allows; this command only forwards it.

The command prints the address, which has a secret in it: other users of this machine
can reach the port, but get nothing without the secret. From another machine, forward
the same port number (ssh -L), because the page answers only at the printed address.`,
		Example: "  rootvouch keys page --kms-socket /run/rootvouch-kms/admin.sock --kms-user rootvouch-kms",
		Args:    command.NoArguments,
	}
	listen := cmd.Flags().String("listen", "127.0.0.1:0", "TCP address to listen on (loopback only; port 0: any)")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		address, err := netip.ParseAddrPort(*listen)
		if err != nil || !address.Addr().IsLoopback() {
			return command.Usage(fmt.Errorf("--listen is %q, want a loopback address with a port", *listen))
		}
		c, err := client()
		if err != nil {
			return err
		}
		// An error of the server shows here, and not in the browser.
		if _, err := c.Status(cmd.Context()); err != nil {
			return hintForKeys(err)
		}
		l, err := net.Listen("tcp", address.String())
		if err != nil {
			return err
		}
		p := page{client: c, host: l.Addr().String(), secret: newSecret()}
		if _, err := fmt.Fprintf(cmd.OutOrStdout(), "http://%s/%s/\n", p.host, p.secret); err != nil {
			l.Close()
			return err
		}
		return p.serve(cmd.Context(), l)
	}
	return cmd
}

func newSecret() string {
	secret := make([]byte, 18)
	rand.Read(secret)
	return base64.RawURLEncoding.EncodeToString(secret)
}

// page forwards the server's page to a browser.
type page struct {
	client       *adminapi.Client
	host, secret string
}

func (p page) serve(ctx context.Context, l net.Listener) error {
	const limit = 30 * time.Second
	server := &http.Server{Handler: p, ReadHeaderTimeout: limit, ReadTimeout: limit, WriteTimeout: 2 * limit, MaxHeaderBytes: 16 << 10}
	stop := context.AfterFunc(ctx, func() { server.Close() })
	defer stop()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// ServeHTTP implements http.Handler. The Host header must name our address. Otherwise another
// site's name could lead here.
func (p page) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path := "/" + p.secret + "/"
	switch {
	case r.Host != p.host || subtle.ConstantTimeCompare([]byte(r.URL.Path), []byte(path)) != 1:
		http.NotFound(w, r)
		return
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		http.Error(w, "only GET", http.StatusMethodNotAllowed)
		return
	}
	header, body, err := p.client.PageOf(r.Context(), r.URL.RawQuery)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	for _, name := range []string{"Content-Type", "Content-Security-Policy", "X-Content-Type-Options", "Referrer-Policy", "Cache-Control"} {
		w.Header().Set(name, header.Get(name))
	}
	w.Write(body)
}
