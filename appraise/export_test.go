package appraise

// Tables returns the number of endorsement keys with a table.
func (m *Memo) Tables() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.keys.tables)
}
