# The front door. Each target is one line that calls a script or CMake; the
# scripts say more about themselves in their first lines.
.DEFAULT_GOAL := help
.PHONY: help build test test-unit test-full simulate mutants e2e crash fuzz bench demo demo-down lab-up lab-down lab-status images lint lint-fix proof
export CONTEXT REGISTRY SCENARIO ONLY NODES RUNS SEED MINUTES

help: ## this list
	@sed -nE 's/^([a-z0-9-]+):.*## (.*)/  make \1\t\2/p' Makefile | expand -t 20
demo: ## from nothing to agents at work and a verdict; 17 min the first time, 2 min later; CONTEXT=name: on your cluster
	@scripts/demo
demo-down: ## take the demo away and look that nothing is left; 5 s
	@scripts/demo down
build: ## packages and programs into build/release/bin; 4 min the first time
	@scripts/build
test: ## everything a change must pass; 37 min from nothing, 15 min warm
	@scripts/test
test-unit: ## tests that need no cluster; 1 min after build
	@scripts/test-unit
test-full: ## everything at full size; hours
	@FULL=1 E2E_TIMEOUT=8h scripts/test
simulate: ## the mailbox in worlds full of faults; 10 s; RUNS=n SEED=s: so many, from that one on; FULL=1: 5 min
	@scripts/simulate
mutants: ## plant bugs, one at a time, and look that each is found; 5 min
	@scripts/mutants
e2e: ## scenarios on a real Kubernetes, as make test runs them; 8 min; SCENARIO=name: one; CONTEXT=name: on your cluster
	@scripts/e2e
crash: ## sidecars killed at every step of a message's life; 15 min; ONLY=name: one step; ROUNDS=3
	@scripts/crash
fuzz: ## hostile bytes for every parser, with sanitizers; MINUTES=10 in all; ONLY=name: one target
	@scripts/fuzz
bench: ## benchmarks beside their peers; 20 min; ONLY=name: one (docs/performance.md)
	@scripts/bench
lab-up: ## a Kubernetes of NODES=2 nodes on this machine; 5 min the first time, 10 s later
	@CONTEXT= scripts/cluster up $(NODES)
lab-down: ## stop it and look that nothing is left; 3 s
	@CONTEXT= scripts/cluster down
lab-status: ## what runs there
	@e2e/lab/lab status
images: ## build the images that changed; 2 min the first time, 10 s later
	@scripts/images
lint: ## formatting and static checks; 10 s; TIDY=1: clang-tidy, too
	@scripts/lint
lint-fix: ## format everything
	@scripts/lint fix
proof: ## docs/proof.md and the tables of docs/performance.md from the results of the others
	@scripts/proof && scripts/performance
