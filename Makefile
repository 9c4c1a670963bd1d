# make help lists what there is to make.

GO ?= $(or $(shell command -v go),/usr/local/go/bin/go)
# Tests build programs with go, and look for it where programs are.
export PATH := $(dir $(GO)):$(PATH)
# dnbd version names the commit, except where git does not tell: no git, no checkout, or one that belongs to another user.
export GOFLAGS := $(strip $(GOFLAGS) $(if $(shell git rev-parse HEAD 2>/dev/null),,-buildvcs=false))

PREFIX ?= /usr/local
FUZZTIME ?= 60s
SOAKTIME ?= 30m

# Root on Linux can run every test, so there none may be skipped.
ifeq ($(shell uname -s)/$(shell id -u),Linux/0)
export DNBD_REQUIRE ?= 1
endif

# In make test the race detector looks at the packages that have goroutines of their own. The simulator has few, and takes ten
# times as long with it; the tests in namespaces run the real program, which is not built with it. make check has it
# look at everything.
PLAIN = ./cmd/... ./e2e/lab ./internal/sim/...

# Tests with sockets, real programs and emulated machines fail at times because the host is busy. What failed has one more try, by itself.
TWICE = bin/tools/gotestsum --format standard-quiet --rerun-fails=1 --packages

# The program builds for all of these; what only one system has is in files that say so. Tests are looked at where there are
# pipes and signals to test with.
SYSTEMS = linux/arm64 linux/386 darwin/arm64 freebsd/amd64 windows/amd64
PORTABLE = ./block/... ./image/... ./nbd/... ./ublk/... ./internal/... ./cmd/...

DIRS = bench block boot cmd demo dist e2e image internal nbd ublk

.PHONY: all build test test-vm vm check lint cross race sim plots fuzz soak bench bench-nbd bench-vm run man install install-boot clean help

all: build

build: ## the one program, bin/dnbd, static, with its other names beside it
	scripts/install-deps.sh build
	CGO_ENABLED=0 $(GO) build -trimpath -o bin/dnbd ./cmd/dnbd
	ln -sf dnbd bin/dnbd-server
	ln -sf dnbd bin/dnbd-client
	ln -sf dnbd bin/nbd-server
	ln -sf dnbd bin/nbd-client

test: ## all tests; installs the Debian packages that they need
	scripts/install-deps.sh test
	-scripts/fetch-kernels.sh
	-scripts/build-userland.sh
	cd tools && $(GO) build -o ../bin/tools/ gotest.tools/gotestsum
	$(GO) vet ./...
	@failed=; \
	$(TWICE)="$$($(GO) list ./... | grep -v -e /cmd/ -e /e2e -e /internal/sim | tr '\n' ' ')" -- -race -timeout 8m || failed=1; \
	$(TWICE)="$(PLAIN)" -- -timeout 8m || failed=1; \
	$(TWICE)=./e2e -- -timeout 8m || failed=1; \
	$(TWICE)=./e2e/vm/... -- -timeout 40m || failed=1; \
	[ -z "$$failed" ]

test-vm: ## the tests in virtual machines alone, with the kernels of Debian 12 and its backports
	scripts/install-deps.sh test
	scripts/fetch-kernels.sh
	scripts/build-userland.sh
	$(GO) test -count 1 -timeout 40m -v ./e2e/vm/...

vm: ## a shell in a virtual machine; KERNEL=bookworm for Linux 6.1, IMAGE=FILE to serve one to it
	scripts/install-deps.sh vm
	scripts/fetch-kernels.sh
	$(GO) run ./e2e/vm/play $(if $(KERNEL),-kernel $(KERNEL)) $(if $(IMAGE),-image $(IMAGE))

check: lint cross race ## what a change has to pass: linters, other systems, all tests with the race detector

lint: ## vet, staticcheck, gofumpt and the rule of imports
	$(GO) vet ./...
	cd tools && $(GO) build -o ../bin/tools/ tool
	bin/tools/staticcheck ./...
	@unformatted=$$(bin/tools/gofumpt -l *.go $(DIRS)); [ -z "$$unformatted" ] || { echo "gofumpt would change:"; echo "$$unformatted"; exit 1; }
	$(GO) test .

cross: ## build for other systems
	@set -e; export CGO_ENABLED=0; for s in $(SYSTEMS); do echo "build for $$s"; \
		export GOOS=$${s%/*} GOARCH=$${s#*/}; $(GO) build $(PORTABLE); \
		[ $$GOOS = windows ] || $(GO) vet $(PORTABLE); done

race: ## all tests with the race detector
	scripts/install-deps.sh test
	-scripts/fetch-kernels.sh
	-scripts/build-userland.sh
	$(GO) test -race -timeout 30m ./...

sim: ## ten thousand simulated machines that boot together; takes minutes. SIMFLAGS='-clients 1000 -join 10s' and more
	$(GO) run ./internal/sim/storm $(SIMFLAGS)

plots: ## rate over time in the simulator; writes docs/rate-*.svg
	$(GO) run ./internal/sim/plots docs

# Go's fuzzer fails at times because its time is over (context deadline exceeded). An input that fails is kept and comes first the next
# time, so who fails twice has one.
fuzz: ## each fuzz target for FUZZTIME, 60s unless set
	@failed=; for p in $$($(GO) list ./...); do for f in $$($(GO) test -list '^Fuzz' $$p | grep '^Fuzz'); do \
		echo "$$p $$f"; set -- -run '^$$' -fuzz "^$$f\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 10x $$p; \
		$(GO) test "$$@" || $(GO) test "$$@" || failed="$$failed $$f"; done; done; \
	[ -z "$$failed" ] || { echo "failed:$$failed"; exit 1; }

soak: build ## the real program, for SOAKTIME, 30m unless set: clients come and go, everything fails, and nothing may leak
	scripts/install-deps.sh test
	$(GO) run ./e2e/soak -time $(SOAKTIME)

bench: build ## side by side with others; writes docs/benchmarks.md
	scripts/install-deps.sh bench
	$(GO) run ./bench

bench-nbd: build ## NBD servers side by side; writes docs/benchmarks-nbd.md
	scripts/install-deps.sh bench
	$(GO) run ./bench -set nbd

bench-vm: build ## devices in virtual machines, side by side with others; writes docs/benchmarks-vm.md
	scripts/install-deps.sh bench
	scripts/install-deps.sh vm
	scripts/fetch-kernels.sh
	scripts/build-userland.sh
	$(GO) run ./bench -set vm

run: build ## see it work: one server and four clients on this machine
	scripts/install-deps.sh run
	$(GO) build -o bin/demo ./demo
	bin/demo

man: build ## manual pages, in bin/man
	bin/dnbd man bin/man

install: build man ## to PREFIX, /usr/local unless set, below DESTDIR
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/share/man/man1
	install bin/dnbd $(DESTDIR)$(PREFIX)/bin/
	ln -sf dnbd $(DESTDIR)$(PREFIX)/bin/dnbd-server
	ln -sf dnbd $(DESTDIR)$(PREFIX)/bin/dnbd-client
	ln -sf dnbd $(DESTDIR)$(PREFIX)/bin/nbd-server
	ln -sf dnbd $(DESTDIR)$(PREFIX)/bin/nbd-client
	install -m 644 bin/man/* $(DESTDIR)$(PREFIX)/share/man/man1/
	install -d $(DESTDIR)$(PREFIX)/lib/systemd/system
	install -m 644 dist/systemd/* $(DESTDIR)$(PREFIX)/lib/systemd/system/
	sed -i 's,^\(ExecStart=@*\)dnbd ,\1$(PREFIX)/bin/dnbd ,' $(DESTDIR)$(PREFIX)/lib/systemd/system/dnbd*.service

install-boot: ## what makes initramfs-tools and dracut boot from a group, to /etc/initramfs-tools and /usr/lib/dracut below DESTDIR
	install -d $(DESTDIR)/etc/initramfs-tools/hooks $(DESTDIR)/etc/initramfs-tools/scripts
	install boot/initramfs-tools/hooks/dnbd $(DESTDIR)/etc/initramfs-tools/hooks/
	install -m 644 boot/initramfs-tools/scripts/dnbd $(DESTDIR)/etc/initramfs-tools/scripts/
	install -m 644 boot/dnbd-root.sh $(DESTDIR)/etc/initramfs-tools/scripts/dnbd-root
	install -d $(DESTDIR)/usr/lib/dracut/modules.d/90dnbd
	install boot/dracut/module-setup.sh $(DESTDIR)/usr/lib/dracut/modules.d/90dnbd/
	install -m 644 boot/dnbd-root.sh boot/dracut/parse-dnbd.sh boot/dracut/mount-dnbd.sh $(DESTDIR)/usr/lib/dracut/modules.d/90dnbd/

clean: ## remove what was built
	rm -rf bin

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 13
