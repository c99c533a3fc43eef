# weir: `make help` lists what can be made. `go test ./...` needs nothing of this file.
GO ?= go
FUZZTIME ?= 20000x
SOAK ?= 10m
BIN := bin/weir
DOORS := weir,weir tproxy,weir both
# Without cgo the binary runs everywhere, and the sandbox's PID 1 can drop its own capabilities on all its threads.
export CGO_ENABLED ?= 0

.PHONY: help build client clients install test gauntlet kill9 race fuzz lint vuln bench soak scale demo clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## /{printf "%-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## build bin/weir
	$(GO) build -trimpath -ldflags="-s -w" -o $(BIN) ./cmd/weir

client: ## build bin/weir-client: the user's end of a tunnel, without gVisor
	$(GO) build -trimpath -tags client -ldflags="-s -w" -o $(BIN)-client ./cmd/weir

clients: ## build the user's end for each system into bin
	@for system in linux darwin windows; do for arch in amd64 arm64; do \
		suffix=; [ $$system != windows ] || suffix=.exe; \
		echo bin/weir-client-$$system-$$arch$$suffix; \
		GOOS=$$system GOARCH=$$arch $(GO) build -trimpath -tags client -ldflags="-s -w" -o bin/weir-client-$$system-$$arch$$suffix ./cmd/weir || exit 1; \
	done; done

install: build ## install weir to /usr/local/bin (DESTDIR, PREFIX)
	install -Dm755 $(BIN) $(DESTDIR)$(or $(PREFIX),/usr/local)/bin/weir

test: ## run all tests
	$(GO) test ./...

gauntlet: build ## attack weir through each door and print what it holds (TOOL=weir,pasta,bwrap compares, ONLY=REGEXP picks rows)
	$(GO) run ./hack/gauntlet -weir $(BIN) -tool '$(or $(TOOL),$(DOORS))' -only '$(ONLY)' $(if $(DOCS),-docs $(DOCS))

kill9: ## kill weir KILLS times (100) under a thousand flows
	KILLS=$(or $(KILLS),100) $(GO) test ./tests -count=1 -run TestKill9 -v

tunnel-faults: ## run the tunnel through loss, delay, holes, rebinding, kills (some minutes; ONLY=REGEXP picks tests)
	WEIR_LONG=1 $(GO) test ./tests/tunnel -count=1 -timeout 60m -run '$(ONLY)' -v

race: ## run all tests under the race detector
	CGO_ENABLED=1 $(GO) test -race ./...

fuzz: ## fuzz each parser for FUZZTIME (20000x, 30s, ...)
	@GO=$(GO) FUZZTIME=$(FUZZTIME) sh hack/fuzz

lint: ## vet, gofmt, staticcheck
	@GO=$(GO) sh hack/lint

vuln: ## govulncheck: known vulnerabilities in what is linked and called
	@GO=$(GO) sh hack/vuln

bench: build ## measure against the plain host, pasta, slirp4netns and gvisor-tap-vsock (BENCH="-markdown docs/bench.md")
	$(GO) run ./hack/bench -weir $(BIN) -tunnel $(BENCH)

soak: build ## churn for SOAK (10m), make 50,000 flows, let one sandbox attack another
	$(GO) run ./hack/soak -weir $(BIN) -for $(SOAK)
	$(GO) run ./hack/soak -weir $(BIN) -flows 50000
	$(GO) run ./hack/soak -weir $(BIN) -neighbour

scale: build ## cost of up to SANDBOXES (1000) sandboxes and FLOWS (20000) flows; takes some 15 minutes and 15 GB
	$(GO) run ./hack/scale -weir $(BIN) -sandboxes $(or $(SANDBOXES),1000) -flows $(or $(FLOWS),20000) $(if $(DOCS),-markdown $(DOCS))

demo: build ## show what weir does, no network needed
	$(BIN) demo

clean: ## remove what was built
	rm -rf bin
