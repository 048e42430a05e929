package appraise

// Tables is how many endorsement keys have one.
func (m *Memo) Tables() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.keys.tables)
}
