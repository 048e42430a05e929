package server

import (
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/rootvouch/rootvouch/kms/keyapi"
	"github.com/rootvouch/rootvouch/kms/store"
	"github.com/rootvouch/rootvouch/pins"
)

// serveCommit answers keyapi.CommitPath. Anyone may ask, so a request costs little until its
// MAC is verified, and requests of strangers go on no leaf.
func (s *Server) serveCommit(w http.ResponseWriter, r *http.Request) {
	start, code := time.Now(), keyapi.Code("")
	defer func() { s.Answered("commit", code, time.Since(start)) }()
	reply, err := s.commit(w, r)
	status := http.StatusOK
	if err != nil {
		code = codeOf(err)
		status, reply = statusOf(code), keyapi.Encode(keyapi.ErrorReply{Version: keyapi.Version, Error: code})
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Connection", "close")
	w.WriteHeader(status)
	w.Write(reply)
}

func (s *Server) commit(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	select {
	case s.commits <- struct{}{}:
		defer func() { <-s.commits }()
	default:
		return nil, refuse(keyapi.CodeBusy, "%d commits are under way", maxCommits)
	}
	if err := http.NewResponseController(w).SetReadDeadline(time.Now().Add(commitTimeout)); err != nil {
		return nil, fmt.Errorf("bounding a commit: %w", err)
	}
	body, err := readBody(w, r, keyapi.MaxCommitSize)
	if err != nil {
		return nil, err
	}
	request, err := keyapi.Decode[keyapi.CommitRequest](body)
	if err != nil {
		return nil, refuse(keyapi.CodeMalformed, "%v", err)
	}
	disk, err := pins.ParseUUID(r.PathValue("uuid"))
	if err != nil {
		return nil, refuse(keyapi.CodeMalformed, "%v", err)
	}
	if !request.Verify(s.Ledger.Records.CommitKey(disk, request.Holder), disk) {
		s.Log.Debug("refused a commit: no launch that had the volume made it", "remote", r.RemoteAddr, "disk", disk)
		return nil, refuse(keyapi.CodeDenied, "no launch that had the volume made the MAC")
	}
	err = s.Ledger.CloseVolume(r.Context(), r.RemoteAddr, disk, request)
	switch {
	case errors.Is(err, store.ErrFork), errors.Is(err, store.ErrNotFound):
		s.Log.Warn("refused a commit", "remote", r.RemoteAddr, "disk", disk, "generation", request.Generation, "reason", err)
		return nil, refuse(keyapi.CodeDenied, "%v", err)
	case err != nil:
		s.Log.Error("closing a volume", "disk", disk, "err", err)
		return nil, err
	}
	s.Log.Info("closed", "remote", r.RemoteAddr, "disk", disk, "generation", request.Generation, "digest", request.Digest)
	return keyapi.Encode(keyapi.CommitReply{Version: keyapi.Version, Generation: request.Generation}), nil
}
