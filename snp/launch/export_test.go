package launch

// Pages returns the VMSA of the first vCPU and that of the others.
func (m *VMSAs) Pages() (first, other []byte) { return m.first[:], m.other[:] }
