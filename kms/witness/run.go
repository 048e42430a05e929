package witness

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/rootvouch/rootvouch/kms/publish"
)

// Interval is the time between two checkpoints that Run sends to the witnesses.
const Interval = 10 * time.Second

// Run has the witnesses cosign the published log until ctx is done. It asks a silent witness
// again. The error matches ErrAhead, which no retry can mend.
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

// step sends a new checkpoint, if there is one.
func (ws *Witnesses) step(ctx context.Context, l Log, now publish.State) error {
	if size, _ := ws.State(); size == now.Tree.Size {
		ws.mu.Lock()
		defer ws.mu.Unlock()
		ws.at = time.Now()
		return nil
	}
	return ws.Cosign(ctx, l, now.Tree, now.Checkpoint)
}
