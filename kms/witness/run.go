package witness

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/rootvouch/rootvouch/kms/publish"
)

// Interval is the time between two checkpoints that are sent to the witnesses.
const Interval = 10 * time.Second

// Run has the witnesses cosign what is published, until ctx is done. A witness that does not
// answer is asked again. The error matches ErrAhead: nothing makes that well again.
func (ws *Witnesses) Run(ctx context.Context, l Log, state func() publish.State, log *slog.Logger) error {
	if len(ws.all) == 0 {
		return nil
	}
	ticker := time.NewTicker(Interval)
	defer ticker.Stop()
	last := ""
	for {
		err := ws.step(ctx, l, state())
		switch {
		case errors.Is(err, ErrAhead):
			return err
		case ctx.Err() != nil:
			return nil
		case err == nil:
			last = ""
		case err.Error() != last:
			last = err.Error()
			log.Warn("the log is not cosigned", "err", err)
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// step sends what is new.
func (ws *Witnesses) step(ctx context.Context, l Log, now publish.State) error {
	if size, _ := ws.State(); size == now.Tree.Size {
		ws.mu.Lock()
		defer ws.mu.Unlock()
		ws.at = time.Now()
		return nil
	}
	return ws.Cosign(ctx, l, now.Tree, now.Checkpoint)
}
