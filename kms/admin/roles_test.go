package admin

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/user"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/rootvouch/rootvouch/kms/adminapi"
	"github.com/rootvouch/rootvouch/pins"
	"github.com/rootvouch/rootvouch/refval"
	"github.com/rootvouch/rootvouch/snp"
)

// TestRoles asks for everything with each role: what it does not allow is refused before the
// request is looked at.
func TestRoles(t *testing.T) {
	r := newRig(t)
	a := New(kmsID, r.book, r.books.State, slog.New(slog.DiscardHandler))
	disk := adminapi.PathDisks + "/" + pins.UUID{9}.String()
	for _, c := range []struct {
		request string
		least   Role
	}{
		{"GET " + adminapi.PathStatus, Read}, {"GET " + adminapi.PathDisks, Read}, {"GET " + adminapi.PathKept, Read},
		{"GET " + disk, Read}, {"GET " + disk + "/releases", Read},
		{"PUT " + disk, Operate}, {"POST " + disk + "/update", Operate}, {"POST " + disk + "/enable", Operate}, {"POST " + disk + "/disable", Operate},
		{"POST " + disk + "/retire", Operate}, {"POST " + disk + "/revive", Operate}, {"POST " + disk + "/confirm", Operate},
		{"POST " + disk + "/withdraw", Operate}, {"POST " + disk + "/restore", Operate},
		{"GET " + adminapi.PathPage, Read}, {"POST " + adminapi.PathKeys, Operate},
		{"POST " + adminapi.PathRewrap, Destroy}, {"POST " + disk + "/export", Destroy},
		{"POST " + disk + "/purge", Destroy}, {"DELETE " + disk, Destroy},
	} {
		method, path, _ := strings.Cut(c.request, " ")
		for role := Read; role <= Destroy; role++ {
			request := httptest.NewRequest(method, path, nil)
			request = request.WithContext(context.WithValue(t.Context(), peerKey{}, peer{nil, role, "uid=7"}))
			answer := httptest.NewRecorder()
			a.handler().ServeHTTP(answer, request)
			if refused := answer.Code == http.StatusForbidden; refused != (role < c.least) {
				t.Errorf("%s with role %s: status %d", c.request, role, answer.Code)
			}
		}
	}
}

// TestRoleOf: the greatest role of a user and its groups counts.
func TestRoleOf(t *testing.T) {
	roles := Roles{Read: Members{Users: []uint32{100000}, Groups: []uint32{7}}, Operate: Members{Groups: []uint32{8}}, Destroy: Members{Users: []uint32{100001}}}
	for _, c := range []struct {
		uid    uint32
		groups []uint32
		want   Role
	}{
		{0, nil, Destroy}, {uint32(os.Geteuid()), nil, Destroy}, {100000, nil, Read}, {100000, []uint32{8}, Operate},
		{100001, []uint32{7}, Destroy}, {100002, []uint32{7, 8}, Operate}, {100002, []uint32{9}, Nobody}, {100002, nil, Nobody},
	} {
		if got := roles.of(c.uid, c.groups); got != c.want {
			t.Errorf("user %d, groups %d: got %s, want %s", c.uid, c.groups, got, c.want)
		}
	}
	if (Roles{}).of(100000, []uint32{0}) != Nobody {
		t.Error("without roles another user has one")
	}
}

func TestResolve(t *testing.T) {
	me, err := user.Current()
	must(t, err)
	got, err := RolesByName{Read: &Names{Users: []string{me.Username, "4711"}, Groups: []string{"4712"}}}.Resolve()
	must(t, err)
	if uid, _ := strconv.Atoi(me.Uid); got.Read.Users[0] != uint32(uid) || got.Read.Users[1] != 4711 || got.Read.Groups[0] != 4712 || !got.open() {
		t.Errorf("got %+v", got)
	}
	if _, err := (RolesByName{Operate: &Names{Groups: []string{"no such group"}}}).Resolve(); err == nil || !strings.Contains(err.Error(), "role operate") {
		t.Errorf("got error %v", err)
	}
}

// TestKernelNamesPeer: who connects is who the kernel says, with its groups.
func TestKernelNamesPeer(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: only root can connect as another user")
	}
	dir, err := os.MkdirTemp("", "kms")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	must(t, os.Chmod(dir, 0o755))
	l, err := Listen(filepath.Join(dir, "s"), Roles{Operate: Members{Groups: []uint32{4712}}})
	must(t, err)
	defer l.Close()
	for _, c := range []struct {
		groups []uint32
		want   Role
	}{{[]uint32{4712}, Operate}, {[]uint32{4713}, Nobody}} {
		conn := dialAs(t, filepath.Join(dir, "s"), 65534, c.groups)
		accepted, err := l.(*listener).Listener.Accept()
		must(t, err)
		p, err := l.(*listener).identify(accepted)
		if err != nil || p.role != c.want || !strings.HasPrefix(p.name, "uid=65534(nobody)") {
			t.Errorf("got %+v, %v, want role %s", p, err, c.want)
		}
		accepted.Close()
		conn.Close()
	}
	// Who has no role is let go at once.
	conn := dialAs(t, filepath.Join(dir, "s"), 65534, nil)
	defer conn.Close()
	go l.Accept()
	conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	if n, err := conn.Read(make([]byte, 1)); n != 0 || err == nil || os.IsTimeout(err) {
		t.Errorf("got %d bytes, %v, want the end", n, err)
	}
}

// dialAs connects as another user.
func dialAs(t *testing.T, path string, uid int, groups []uint32) net.Conn {
	t.Helper()
	type result struct {
		conn net.Conn
		err  error
	}
	made := make(chan result)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		made <- func() result {
			var list *uint32
			if len(groups) > 0 {
				list = &groups[0]
			}
			if err := setThread(uid, len(groups), list); err != nil {
				return result{nil, err}
			}
			// net.Dial may change threads; connect(2) here may not.
			fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				return result{nil, err}
			}
			if err := unix.Connect(fd, &unix.SockaddrUnix{Name: path}); err != nil {
				return result{nil, err}
			}
			file := os.NewFile(uintptr(fd), path)
			defer file.Close()
			conn, err := net.FileConn(file)
			return result{conn, err}
		}()
	}()
	r := <-made
	must(t, r.err)
	return r.conn
}

// TestPages walks a list in small pages, and filters it.
func TestPages(t *testing.T) {
	r, ctx := newRig(t), t.Context()
	const disks = 7
	for i := range byte(disks) {
		p := put(t)
		p.DiskUUID, p.SPIFFEID = pins.UUID{i + 1}, "spiffe://example.org/vm/"+strconv.Itoa(int(i)/2)
		p.ReferenceValues = values(t, func(v *refval.Values) { v.Measurements[0].Digest = snp.Measurement{i + 1} })
		must(t, second(r.client.Put(ctx, p, key)))
	}
	must(t, second(r.client.Retire(ctx, pins.UUID{3})))
	must(t, second(r.client.Update(ctx, pins.UUID{2}, adminapi.Update{KeepBefore: 60,
		ReferenceValues: values(t, func(v *refval.Values) { v.Measurements[0].Digest = snp.Measurement{0x77} })})))
	for _, c := range []struct {
		name string
		q    adminapi.Query
		want int
	}{
		{"all", adminapi.Query{}, disks}, {"an ID", adminapi.Query{SPIFFEID: "spiffe://example.org/vm/1"}, 2}, {"no such ID", adminapi.Query{SPIFFEID: "spiffe://example.org/vm"}, 0},
		{"retired", adminapi.Query{State: "retired"}, 1}, {"a measurement", adminapi.Query{Measurement: snp.Measurement{5}}, 1},
		{"an old measurement", adminapi.Query{Measurement: snp.Measurement{2}}, 1}, {"its new one", adminapi.Query{Measurement: snp.Measurement{0x77}}, 1},
		{"a root", adminapi.Query{RootOfTrust: refval.EmulatedARK(pins.Digest{1}).String()}, disks}, {"another root", adminapi.Query{RootOfTrust: "AMD"}, 0},
		{"two at once", adminapi.Query{State: "enabled", SPIFFEID: "spiffe://example.org/vm/1"}, 1},
	} {
		seen := map[pins.UUID]bool{}
		for q, pages := c.q, 0; pages < 50; pages++ {
			q.Limit = 2
			page, err := r.client.Page(ctx, q)
			must(t, err)
			if len(page.Records) > 2 || page.Total != disks {
				t.Fatalf("%s: got %d records of %d", c.name, len(page.Records), page.Total)
			}
			for _, x := range page.Records {
				seen[x.DiskUUID] = true
			}
			if page.Next == (pins.UUID{}) {
				break
			}
			q.After = page.Next
		}
		if len(seen) != c.want {
			t.Errorf("%s: got %d records, want %d", c.name, len(seen), c.want)
		}
	}
	for _, bad := range []adminapi.Query{{Limit: adminapi.MaxPage + 1}, {Limit: -1}, {SPIFFEID: "vm"}} {
		_, err := r.client.Page(ctx, bad)
		wantStatus(t, bad.Encode(), http.StatusBadRequest, err)
	}
	kept, err := r.client.Kept(ctx, pins.UUID{}, 0)
	must(t, err)
	if len(kept.Records) != 0 {
		t.Errorf("kept are %+v", kept.Records)
	}
	must(t, r.client.Delete(ctx, pins.UUID{4}))
	if kept, err = r.client.Kept(ctx, pins.UUID{}, 0); err != nil || len(kept.Records) != 1 || kept.Total != disks-1 {
		t.Errorf("got %+v, %v", kept, err)
	}
	must(t, second(r.client.Restore(ctx, pins.UUID{4}, 0)))
	must(t, r.client.Delete(ctx, pins.UUID{4}))
	_, err = r.client.Purge(ctx, pins.UUID{4}, 0, false)
	wantStatus(t, "early purge", http.StatusConflict, err)
	if n, err := r.client.Purge(ctx, pins.UUID{4}, 0, true); n != 1 || err != nil {
		t.Errorf("purged %d, %v", n, err)
	}
}

// TestTicket: what a change is for is on the log.
func TestTicket(t *testing.T) {
	r := newRig(t)
	r.client.Ticket = "CHG-4711: new web server"
	must(t, second(r.client.Put(t.Context(), put(t), key)))
	if text := r.books.Text(t); !strings.Contains(text, `"ticket":"CHG-4711: new web server"`) || !strings.Contains(text, `"actor":"uid=`) {
		t.Errorf("log has %s", text)
	}
	r.client.Ticket = strings.Repeat("x", adminapi.MaxTicket+1)
	wantStatus(t, "long ticket", http.StatusBadRequest, second(r.client.Disable(t.Context(), header.DiskUUID)))
}

// setThread gives this thread alone a user and groups.
func setThread(uid, n int, groups *uint32) error {
	if _, _, errno := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(n), uintptr(unsafe.Pointer(groups)), 0); errno != 0 {
		return errno
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, uintptr(uid), uintptr(uid), uintptr(uid)); errno != 0 {
		return errno
	}
	return nil
}
