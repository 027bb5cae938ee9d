# The two that do everything on a fresh Debian 12 with Go, as root:
#   make run    build, start a node, call a function with a photograph
#   make test   every check and every test

GO      ?= go
GOARCH  ?= $(shell $(GO) env GOHOSTARCH)
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
PREFIX  ?= /usr/local
DESTDIR ?=
UNITDIR ?= /etc/systemd/system

TESTTIMEOUT ?= 50m
TESTFLAGS   ?=
PKGS        ?= ./...
FUZZTIME    ?= 10s
SOAK        ?= 10m

STATIC  = CGO_ENABLED=0 GOOS=linux
INIT    = cmd/mayfly/init/mayfly-init
LDINIT  = -trimpath -ldflags '-s -w -E main.entry'
LDMAIN  = -trimpath -ldflags '-s -w -X main.version=$(VERSION)'

.PHONY: help
help: ## say what there is
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | sort | expand -t 16

.PHONY: build
build: init ## bin/mayfly, static, with mayfly-init inside
	$(STATIC) GOARCH=$(GOARCH) $(GO) build $(LDMAIN) -o bin/mayfly ./cmd/mayfly

# cmd/mayfly embeds this file, so nothing in cmd/mayfly compiles without it.
.PHONY: init
init: ## mayfly-init, which cmd/mayfly embeds
	@mkdir -p $(dir $(INIT))
	$(STATIC) GOARCH=$(GOARCH) $(GO) build $(LDINIT) -o $(INIT) ./cmd/mayfly-init

# The overlay lets the other architecture's init stand in for the file that is
# embedded, so that a cross build never leaves the wrong one in the tree.
.PHONY: build-arm64
build-arm64: ## bin/mayfly-arm64, cross-compiled
	@mkdir -p .build/arm64 $(dir $(INIT))
	$(STATIC) GOARCH=arm64 $(GO) build $(LDINIT) -o .build/arm64/mayfly-init ./cmd/mayfly-init
	@printf '{"Replace":{"%s":"%s"}}\n' '$(CURDIR)/$(INIT)' '$(CURDIR)/.build/arm64/mayfly-init' >.build/arm64/overlay.json
	$(STATIC) GOARCH=arm64 $(GO) build -overlay .build/arm64/overlay.json $(LDMAIN) -o bin/mayfly-arm64 ./cmd/mayfly

.PHONY: install
install: build ## put bin/mayfly and its systemd unit in place
	PREFIX='$(PREFIX)' DESTDIR='$(DESTDIR)' UNITDIR='$(UNITDIR)' scripts/install.sh

.PHONY: run
run: ## install what is missing, build, start a node, call examples/thumbnail (DETACH=1 returns)
	@MAKE='$(MAKE)' DETACH='$(DETACH)' scripts/run.sh up

.PHONY: stop
stop: ## end what `make run` started
	@scripts/run.sh down

.PHONY: test
test: deps-test init ## every check and every test, with the race detector
	@GO='$(GO)' TESTTIMEOUT='$(TESTTIMEOUT)' TESTFLAGS='$(TESTFLAGS)' scripts/test.sh $(PKGS)

.PHONY: lint
lint: init ## gofmt, vet, staticcheck, shellcheck where it is installed
	@GO='$(GO)' scripts/lint.sh $(PKGS)

.PHONY: fuzz
fuzz: init ## each fuzz target for FUZZTIME
	@GO='$(GO)' FUZZTIME='$(FUZZTIME)' scripts/fuzz.sh

.PHONY: bench
bench: build ## compare with crun, runc, podman, docker, River and asynq; writes bench/results.json
	@scripts/deps.sh bench
	$(GO) run ./bench

.PHONY: soak
soak: build ## run the platform under load for SOAK and look for what is left over
	MAYFLY_SOAK='$(SOAK)' $(GO) test -v -count=1 -timeout 0 -run '^TestSoak' ./e2e

.PHONY: deps-test
deps-test:
	@scripts/deps.sh test

.PHONY: clean
clean: ## remove what was built
	rm -rf bin .build/arm64 $(INIT)
