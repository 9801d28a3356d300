# What one does with this package. Each target is a line or a plain script in scripts/.
.DEFAULT_GOAL := help
.PHONY: help run test test-slow check bench bench-compare bench-rollout fuzz reference

# More arguments for the command behind a target: make test ARGS=layers
ARGS ?=

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: ## build the release binary and start the edge with three demo origins
	@scripts/setup.sh build
	cargo build --release --locked
	./target/release/tidegate run --config conf/tidegate.toml --demo $(ARGS)

test: ## run all tests but the slow ones
	@scripts/setup.sh test
	@scripts/test.sh $(ARGS)

test-slow: ## run the tests that are marked #[ignore], each of which says why
	@scripts/setup.sh test
	@scripts/test.sh --slow $(ARGS)

check: ## formatting, lints, docs, licences, layers, shell scripts
	@scripts/setup.sh build
	@scripts/check.sh

bench: ## micro-benchmarks of the request path
	@scripts/setup.sh build
	cargo bench --locked --bench hot_path -- $(ARGS)

bench-compare: ## beside nginx, HAProxy and bare Pingora: ARGS=--quick, ARGS=--help
	@scripts/setup.sh build
	@scripts/setup.sh compare
	cargo bench --locked --bench compare -- $(ARGS)

bench-rollout: ## simulations of the analysis of rollouts: ARGS=--quick, ARGS=detection
	@scripts/setup.sh build
	cargo bench --locked --bench rollout -- $(ARGS)

fuzz: ## fuzz one target for a minute: make fuzz ARGS=path (needs cargo-fuzz)
	RUSTC_BOOTSTRAP=1 cargo fuzz run --fuzz-dir tests/fuzz $(ARGS) -- -max_total_time=60

reference: ## write docs/reference and the schema anew, from the code
	@scripts/setup.sh build
	UPDATE_REFERENCE=1 cargo test --locked --test it reference
