package tables

// rsdpTable returns the root system description pointer, revision 2 (5.2.5.3). It
// has no RSDT, so there is only one list of tables.
func rsdpTable() []byte {
	t := make([]byte, rsdpSize)
	copy(t, "RSD PTR ")
	copy(t[9:], oemID)
	t[15] = 2
	le.PutUint32(t[20:], uint32(len(t)))
	return t
}

// facsTable returns the firmware ACPI control structure, version 2 (5.2.10). ACPI
// requires it. The kernel does not use it, because power-off is the only sleep
// state.
func facsTable() []byte {
	t := make([]byte, 64)
	copy(t, "FACS")
	le.PutUint32(t[4:], uint32(len(t)))
	t[32] = 2
	return t
}

// mcfgTable returns the table that says where PCI configuration space is in memory
// (PCI Firmware Specification 3.3, 4.1.2): one segment, buses 0 to 255.
func mcfgTable() []byte {
	body := make([]byte, 24)
	le.PutUint64(body[8:], ECAM)
	body[19] = 255
	return header("MCFG", 1, body)
}

// hpetTable returns the table that describes the HPET (IA-PC HPET Specification
// 1.0a, 3.2.4). The kernel compares the TSC with it.
func hpetTable() []byte {
	body := make([]byte, 20)
	le.PutUint32(body, hpetID)
	le.PutUint64(body[8:], hpet)
	return header("HPET", 1, body)
}

// FADT flags (5.2.9, table 5.10).
const (
	flagWBINVD        = 1 << 0
	flagProcC1        = 1 << 2
	flagSleepButton   = 1 << 5 // no fixed sleep button
	flagResetRegister = 1 << 10
	flagPlatformClock = 1 << 15
	bootNoVGA         = 1 << 2 // IAPC_BOOT_ARCH; bit 1 off says that there is no 8042
)

// fadtTable returns the fixed ACPI description table, revision 3 (5.2.9). Every
// register in it is an I/O port. The kernel writes to the event registers that a
// FADT names, so a register in memory would let the table's author write to memory.
// SMI_CMD is zero: the firmware has already switched to ACPI mode.
func fadtTable() []byte {
	t := header("FACP", 3, make([]byte, 244-headerSize))
	// A generic address has the space (1 is I/O), the width in bits, the offset and
	// the access size.
	port := func(at int, bits byte, address uint64) {
		t[at], t[at+1] = 1, bits
		le.PutUint64(t[at+4:], address)
	}
	le.PutUint16(t[46:], sciInterrupt)
	le.PutUint32(t[56:], PowerPorts)      // PM1a_EVT_BLK
	le.PutUint32(t[64:], PowerPorts+4)    // PM1a_CNT_BLK
	le.PutUint32(t[76:], PowerPorts+8)    // PM_TMR_BLK
	le.PutUint32(t[80:], PowerPorts+0x20) // GPE0_BLK
	t[88], t[89], t[91], t[92] = 4, 2, 4, 16
	le.PutUint16(t[96:], 0xfff) // P_LVL2_LAT: no C2
	le.PutUint16(t[98:], 0xfff) // P_LVL3_LAT: no C3
	t[108] = 0x32               // CENTURY
	le.PutUint16(t[109:], bootNoVGA)
	le.PutUint32(t[112:], flagWBINVD|flagProcC1|flagSleepButton|flagResetRegister|flagPlatformClock)
	port(116, 8, resetPort)
	t[128] = 0x0f
	port(148, 32, PowerPorts)
	port(172, 16, PowerPorts+4)
	port(208, 32, PowerPorts+8)
	port(220, 128, PowerPorts+0x20)
	return t
}

// madtTable returns the multiple APIC description table, revision 3 (5.2.12),
// without processors.
func madtTable() []byte {
	body := make([]byte, 8)
	le.PutUint32(body, localAPIC)
	body[4] = 1 // PCAT_COMPAT: two 8259s, to be masked
	for _, entry := range [][]byte{
		{1, 12, 0, 0, ioAPIC & 0xff, ioAPIC >> 8 & 0xff, ioAPIC >> 16 & 0xff, ioAPIC >> 24, 0, 0, 0, 0},
		{2, 10, 0, 0, 2, 0, 0, 0, 0, 0},                          // the timer's IRQ 0 is interrupt 2
		{2, 10, 0, sciInterrupt, sciInterrupt, 0, 0, 0, 0x0d, 0}, // the SCI: level, active high
		{4, 6, 0xff, 0, 0, 1},                                    // NMI of every processor: LINT1
		{10, 12, 0, 0, 0xff, 0xff, 0xff, 0xff, 1, 0, 0, 0},       // the same for x2APIC
	} {
		body = append(body, entry...)
	}
	return header("APIC", 3, body)
}
