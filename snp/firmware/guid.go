package firmware

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strings"
)

// GUIDs of edk2, each with the name that it has there.
const (
	guidFFS2 = "8c8ce578-8a3d-4f1c-9935-896185c32dd3" // EFI_FIRMWARE_FILE_SYSTEM2_GUID
	guidFFS3 = "5473c07a-3dcb-4dca-bd6f-1e9689e7349a" // EFI_FIRMWARE_FILE_SYSTEM3_GUID
	guidLZMA = "ee4e5898-3914-4259-9d6e-dc7bd79403cf" // LZMA_CUSTOM_DECOMPRESS_GUID

	guidLoaderFS    = "1428f772-b64a-441e-b8c3-9ebdd7f893c7" // QEMU_KERNEL_LOADER_FS_MEDIA_GUID
	guidKernelHash  = "4de79437-abd2-427f-b835-d5b172d2045b" // SEV_KERNEL_HASH_GUID
	guidInitrdHash  = "44baf731-3a2f-4bd7-9af1-41e29169781d" // SEV_INITRD_HASH_GUID
	guidCmdlineHash = "97d02dd8-bd20-4c94-aa78-e7714d36ab2a" // SEV_CMDLINE_HASH_GUID

	guidLoader    = "806040ca-dad9-4978-a3b4-2d2ab0c8a48f" // QemuKernelLoaderFsDxe
	guidPCIBus    = "93b80004-9fb3-11d4-9a3a-0090273fc14d" // PciBusDxe
	guidPCIPolicy = "f6697ac4-a776-4ee1-b643-1feff2b615bb" // IncompatiblePciDeviceSupportDxe
	guidFlash     = "733cbac2-b23f-4b92-bc8e-fb01ce5907b7" // FvbServicesRuntimeDxe
)

// guidAt reads a GUID, whose first three fields are little-endian (UEFI
// Specification 2.10, appendix A).
func guidAt(data []byte, at int) string {
	b := data[at : at+16]
	return fmt.Sprintf("%08x-%04x-%04x-%x-%x", binary.LittleEndian.Uint32(b), binary.LittleEndian.Uint16(b[4:]),
		binary.LittleEndian.Uint16(b[6:]), b[8:10], b[10:16])
}

// guidBytes is the inverse of guidAt, for the GUIDs of this package.
func guidBytes(s string) []byte {
	b, err := hex.DecodeString(strings.ReplaceAll(s, "-", ""))
	if err != nil || len(b) != 16 {
		panic(fmt.Sprintf("firmware: internal error: GUID %q", s))
	}
	b[0], b[1], b[2], b[3] = b[3], b[2], b[1], b[0]
	b[4], b[5] = b[5], b[4]
	b[6], b[7] = b[7], b[6]
	return b
}
