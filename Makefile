# Every target is one that a newcomer can use. `make demo` and `make test` do
# their own set-up (scripts/setup: Debian 12 or 13, root or sudo, Go).

CACHE  := $(or $(ROOTVOUCH_CACHE),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/rootvouch)
SPIRE  := $(CACHE)/spire/1.13.3
HOST   := rootvouch rootvouch-spire rootvouch-kms snp-server-plugin
GUEST  := init fetchkey snp-agent-plugin attestd
FLAGS  := -trimpath -buildvcs=false -ldflags=-s
FUZZTIME ?= 30s
export PATH := $(PATH):/usr/sbin:/sbin

.PHONY: check build demo test vm volumes attack faults storm race fuzz bench interop vuln setup setup-tests dist dist-test clean help

check: ## formatting, vet, lint (the first run builds the linter) and the fast tests: no root, no VM
	@scripts/check

build: ## host tools in bin/, guest binaries in bin/guest/
	@mkdir -p bin/guest
	CGO_ENABLED=0 go build $(FLAGS) -o bin/ $(HOST:%=./cmd/%)
	CGO_ENABLED=0 go build $(FLAGS) -o bin/guest/ $(GUEST:%=./cmd/%)

setup: ## everything that demo needs, into the cache
	@scripts/setup

setup-tests: setup ## and what only tests need
	@scripts/setup tests

bin/guest/spire-agent: setup build
	@cmp -s $(SPIRE)/spire-agent $@ || { cp $(SPIRE)/spire-agent $@.part && mv $@.part $@; }

demo: setup build bin/guest/spire-agent ## the main job, end to end, emulated: NOT CONFIDENTIAL
	bin/rootvouch demo

test: setup-tests build bin/guest/spire-agent ## every test, VM boots included
	@go build -o bin/ ./test/progress
	@ROOTVOUCH_TEST=full bin/progress -timeout 60m -- . tools/kek-pkcs11

vm: setup-tests build bin/guest/spire-agent ## the VM boots alone, with every machine that the gate is made for
	ROOTVOUCH_TEST=full ROOTVOUCH_VM=all go test -timeout 60m -v ./boot ./gate ./test/e2e

volumes: setup-tests build bin/guest/spire-agent ## volumes that are written, every case
	ROOTVOUCH_TEST=full ROOTVOUCH_VM=all ROOTVOUCH_CUTS=50 go test -count=1 -timeout 120m -v -run 'Volume' ./volume ./kms/... ./boot ./test/e2e

attack: setup-tests build bin/guest/spire-agent ## the attack suite, every row; writes docs/ATTACKS.md (ATTACK=REGEXP: those rows)
	ROOTVOUCH_ATTACK='$(or $(ATTACK),.)' go test -count=1 -timeout 180m -v -run TestAttacks ./test/attack

faults: setup-tests build ## key servers killed, clusters broken, all rounds; a checker decides (20 minutes)
	ROOTVOUCH_TEST=full ROOTVOUCH_FAULTS=all go test -count=1 -timeout 120m -v -run 'TestKill|TestRotate|TestRace|TestCluster|TestPartition|TestNoSpace' ./test/faults

storm: setup-tests build ## STORM VMs (10,000) that boot at once: each gets its key once, and how long that takes
	ROOTVOUCH_TEST=full ROOTVOUCH_STORM=$(or $(STORM),10000) go test -count=1 -timeout 60m -v -run 'TestStorm' ./test/faults

race: ## the fast tests under the race detector
	go test -race ./...

fuzz: ## each fuzz target for FUZZTIME
	@scripts/fuzz $(FUZZTIME)

bench: setup-tests build ## figures as ratios against the peers, in one run
	@scripts/bench

interop: setup-tests build ## what cryptsetup, veritysetup and go-sev-guest say of our output
	go test -count=1 -v -run 'Interop|Oracle' ./...

vuln: ## known vulnerabilities in what we link (needs the vulnerability database)
	go run golang.org/x/vuln/cmd/govulncheck@latest ./...

dist: ## what users install: tarball, .deb, .rpm, SBOM and sums, in dist/
	@scripts/setup spire
	@scripts/dist dist

dist-test: ## dist/ built again and compared, installed into clean roots, the key server started (root)
	@scripts/dist-test dist

clean: ## what make built; the cache stays
	rm -rf bin out dist

help: ## this list
	@sed -n 's/^\([a-z/-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 10
