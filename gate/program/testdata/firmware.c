// firmware - runs the gate's program as a firmware would, in a process.
//
// usage: firmware CODE DATA [SETTING]...
//
//   window=FIRST:LENGTH[:KIND]  a descriptor of the root bridge (KIND 0: memory)
//   tag=N                       the tag of the next descriptor
//   cpu=APICID:FLAGS            a processor; cpus=N: so many, with IDs from 0
//   bridges=N                   root bridges
//   register=ADDRESS:VALUE      a PCI register, in hex
//   table=N                     a configuration table whose GUID has N in each byte
//   keep=N                      a table with GUID N of the gate's list
//   fail=SERVICE[:N]            the Nth call of a service fails
//   console=none                there is no console
//
// It prints what the program asks for, one line each, and the tables in hex when
// the kernel is started. Each service spoils what a callee may spoil.
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define EFI __attribute__((ms_abi, noinline))
typedef uint64_t u64;

static char *image, *tables;
static u64 windows[64][4], cpus[4096][2], registers[16][2];
static int nwindows, ncpus, nregisters = 0, bridges = 1, tag = 0x8a;
static const char *failing = "";
static int fail_at = 1;
static u64 config[32][3];
static u64 system_table[32], boot[64], runtime[64], console[8], bridge[32], mp[8];
static u64 our_image[16], kernel_image[16];

static void line(const char *s) { printf("%s\n", s); fflush(stdout); }

// spoil checks the stack, and says whether this call is to fail.
static inline __attribute__((always_inline)) u64 spoil(const char *service) {
	u64 *frame = __builtin_frame_address(0);
	static int n;
	if ((u64)frame % 16) { line("stack is not on 16 bytes"); exit(3); }
	if (!strcmp(service, failing) && ++n == fail_at) return 0x8000000000000003;
	return 0;
}
#define SPOIL(name) u64 bad = spoil(#name); if (bad) return bad
// SCRATCH overwrites the callee's part of the stack and its registers.
#define SCRATCH u64 *shadow = (u64 *)__builtin_frame_address(0) + 2; for (int k = 0; k < 4; k++) shadow[k] = 0xdededededededede; __asm__ volatile("mov $0x5a5a5a5a, %%r10\n mov %%r10, %%r11\n mov %%r10, %%r8\n mov %%r10, %%r9" ::: "r8", "r9", "r10", "r11")

static int guid(const uint8_t *g, const char *first) { return !memcmp(g, first, 4); }

static EFI u64 handle_protocol(u64 handle, const uint8_t *g, u64 *out) {
	SPOIL(HandleProtocol);
	if (guid(g, "\xa1\x31\x1b\x5b")) *out = handle == 0x1111 ? (u64)our_image : (u64)kernel_image;
	else if (guid(g, "\xbb\x7e\x70\x2f") && handle == 0x2222) *out = (u64)bridge;
	else { line("HandleProtocol of something else"); exit(3); }
	SCRATCH;
	return 0;
}

static EFI u64 allocate_pages(u64 kind, u64 type, u64 pages, u64 *address) {
	SPOIL(AllocatePages);
	if (kind != 1 || type != 9 || *address != 0xffffffff) { line("AllocatePages with other arguments"); exit(3); }
	// One page more, which nobody may read or write.
	tables = mmap(0, (pages + 1) * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
	mprotect(tables + pages * 4096, 4096, PROT_NONE);
	memset(tables, 0xee, pages * 4096);
	*address = (u64)tables;
	SCRATCH;
	return 0;
}

static EFI u64 locate_handle(u64 kind, const uint8_t *g, u64 key, u64 *size, u64 *out) {
	SPOIL(LocateHandle);
	if (kind != 2 || !guid(g, "\xbb\x7e\x70\x2f")) { line("LocateHandle of something else"); exit(3); }
	if (bridges == 0) return 0x800000000000000e;
	if (*size < 8 * (u64)bridges) { *size = 8 * bridges; return 0x8000000000000005; }
	*size = 8;
	*out = 0x2222;
	SCRATCH;
	return 0;
}

static EFI u64 locate_protocol(const uint8_t *g, u64 registration, u64 *out) {
	SPOIL(LocateProtocol);
	if (!guid(g, "\x05\xa6\xdd\x3f")) { line("LocateProtocol of something else"); exit(3); }
	*out = (u64)mp;
	SCRATCH;
	return 0;
}

static EFI u64 pci_read(u64 *this, u64 width, u64 address, u64 count, uint32_t *out) {
	SPOIL(PciRead);
	if (this != bridge || width != 2 || count != 1) { line("Pci.Read with other arguments"); exit(3); }
	*out = 0xffffffff;
	for (int i = 0; i < nregisters; i++) if (registers[i][0] == address) *out = registers[i][1];
	SCRATCH;
	return 0;
}

static EFI u64 configuration(u64 *this, char **out) {
	SPOIL(Configuration);
	static char d[64 * 46 + 2];
	char *p = d;
	for (int i = 0; i < nwindows; i++, p += 46) {
		p[0] = windows[i][3];
		p[1] = 0x2b;
		p[3] = windows[i][2];
		memcpy(p + 14, &windows[i][0], 8);
		memcpy(p + 38, &windows[i][1], 8);
	}
	p[0] = 0x79;
	*out = d;
	SCRATCH;
	return 0;
}

static EFI u64 number(u64 *this, u64 *all, u64 *enabled) {
	SPOIL(GetNumberOfProcessors);
	*all = ncpus;
	*enabled = ncpus;
	SCRATCH;
	return 0;
}

static EFI u64 information(u64 *this, u64 n, u64 *out) {
	SPOIL(GetProcessorInfo);
	if (this != mp || n >= (u64)ncpus) { line("GetProcessorInfo with other arguments"); exit(3); }
	memset(out, 0xee, 48);
	out[0] = cpus[n][0];
	*(uint32_t *)(out + 1) = cpus[n][1];
	SCRATCH;
	return 0;
}

static EFI u64 install(const uint8_t *g, char *table) {
	SPOIL(InstallConfigurationTable);
	u64 n = system_table[13], i = 0;
	while (i < n && memcmp(config[i], g, 16)) i++;
	if (!table) {
		if (i == n) { line("InstallConfigurationTable removes what is not there"); exit(3); }
		memmove(config[i], config[i + 1], 24 * (n - i - 1));
		memset(config[n - 1], 0xee, 24);
		system_table[13]--;
	} else {
		if (table != tables || !guid(g, "\x71\xe8\x68\x88")) { line("InstallConfigurationTable of something else"); exit(3); }
		memcpy(config[i], g, 16);
		config[i][2] = (u64)table;
		if (i == n) system_table[13]++;
	}
	SCRATCH;
	return 0;
}

static EFI u64 load_image(u64 policy, u64 parent, u64 path, char *source, u64 size, u64 *out) {
	SPOIL(LoadImage);
	if (policy || parent != 0x1111 || path) { line("LoadImage with other arguments"); exit(3); }
	printf("kernel at %#llx, %llu bytes\n", (unsigned long long)(source - image), (unsigned long long)size);
	*out = 0x3333;
	SCRATCH;
	return 0;
}

static EFI u64 start_image(u64 handle, u64 size, u64 data) {
	SPOIL(StartImage);
	if (handle != 0x3333 || size || data) { line("StartImage with other arguments"); exit(3); }
	printf("options %llx %llx %llx\n", (unsigned long long)kernel_image[3], (unsigned long long)(kernel_image[6] & 0xffffffff), (unsigned long long)kernel_image[7]);
	printf("address %llx\ntables ", (unsigned long long)(u64)tables);
	for (int i = 0; i < 16 * 4096; i++) printf("%02x", (unsigned char)tables[i]);
	printf("\n");
	for (u64 i = 0; i < system_table[13]; i++) {
		printf("configuration ");
		for (int j = 0; j < 16; j++) printf("%02x", ((unsigned char *)config[i])[j]);
		printf("%s\n", config[i][2] == (u64)tables ? " ours" : "");
	}
	SCRATCH;
	return 0;
}

static EFI u64 output(u64 *this, const uint16_t *text) {
	SPOIL(OutputString);
	if (this != console) { line("OutputString of something else"); exit(3); }
	for (; *text; text++) if (*text != '\r') putchar(*text);
	SCRATCH;
	return 0;
}

static EFI u64 reset(u64 type, u64 status, u64 size, u64 data) {
	SPOIL(ResetSystem);
	printf("reset %llu\n", (unsigned long long)type);
	fflush(stdout);
	exit(0);
}

static void load(const char *path, char *to) {
	FILE *f = fopen(path, "rb");
	if (!f || !fread(to, 1, 1 << 16, f)) { perror(path); exit(3); }
	fclose(f);
}

int main(int argc, char **argv) {
	image = mmap(0, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	load(argv[1], image + 0x1000);
	load(argv[2], image + 0x2000);
	u64 known[][2] = {{0, 0x29c08086}, {0x60, 0xe0000001}, {0x64, 0}, {31 << 16, 0x29188086}, {31 << 16 | 0x40, 0x601}};
	memcpy(registers, known, sizeof known);
	nregisters = 5;
	for (int i = 3; i < argc; i++) {
		char *s = argv[i];
		unsigned long long a = 0, b = 0, c = 0;
		if (sscanf(s, "window=%llx:%llx:%llx", &a, &b, &c) >= 2) {
			windows[nwindows][0] = a; windows[nwindows][1] = b; windows[nwindows][2] = c; windows[nwindows++][3] = tag;
			tag = 0x8a;
		} else if (sscanf(s, "tag=%llx", &a)) tag = a;
		else if (sscanf(s, "cpu=%llu:%llx", &a, &b) == 2) { cpus[ncpus][0] = a; cpus[ncpus++][1] = b; }
		else if (sscanf(s, "cpus=%llu", &a)) for (; ncpus < (int)a; ncpus++) { cpus[ncpus][0] = ncpus; cpus[ncpus][1] = 6; }
		else if (sscanf(s, "bridges=%llu", &a)) bridges = a;
		else if (sscanf(s, "register=%llx:%llx", &a, &b) == 2) {
			for (int j = 0; j < nregisters; j++) if (registers[j][0] == a) registers[j][1] = b;
		} else if (sscanf(s, "table=%llx", &a)) { memset(config[system_table[13]], a, 24); system_table[13]++; }
		else if (sscanf(s, "keep=%llu", &a)) { memcpy(config[system_table[13]], image + 0x2060 + 16 * a, 16); system_table[13]++; }
		else if (!strcmp(s, "console=none")) console[0] = 1;
		else if (!strncmp(s, "fail=", 5)) {
			char *colon = strchr(s, ':');
			if (colon) { *colon = 0; fail_at = atoi(colon + 1); }
			failing = s + 5;
		} else { fprintf(stderr, "unknown setting %s\n", s); return 3; }
	}
	mprotect(image, 0x1000, PROT_NONE);
	mprotect(image + 0x1000, 0x1000, PROT_READ | PROT_EXEC);
	mprotect(image + 0x2000, (1 << 20) - 0x2000, PROT_READ);

	system_table[8] = console[0] ? 0 : (u64)console;
	console[1] = (u64)output;
	system_table[11] = (u64)runtime;
	system_table[12] = (u64)boot;
	system_table[14] = (u64)config;
	runtime[13] = (u64)reset;
	boot[5] = (u64)allocate_pages;
	boot[19] = (u64)handle_protocol;
	boot[22] = (u64)locate_handle;
	boot[24] = (u64)install;
	boot[25] = (u64)load_image;
	boot[26] = (u64)start_image;
	boot[40] = (u64)locate_protocol;
	bridge[7] = (u64)pci_read;
	bridge[17] = (u64)configuration;
	mp[0] = (u64)number;
	mp[1] = (u64)information;
	our_image[3] = 0xd0d0;
	our_image[6] = 0x6060;
	our_image[7] = 0x7070;
	kernel_image[6] = 0xaaaaaaaa00000000;

	((EFI void (*)(u64, u64 *))(image + 0x1000))(0x1111, system_table);
	line("the program returned");
	return 3;
}
