# Skin lesions from dermoscopic images: notebooks in, reports out.
#
#   make reproduce                         the demonstration on synthetic images
#   make data                              download HAM10000 (data/README.md), or bring a copy:
#   make data FROM=<folder or zip>
#   make reproduce CONFIG=ham10000_lite    the same on real images
#
# CONFIG    a name in configs/, or the path of a YAML file of your own   (default: demo)
# PYTHON    an environment that is already active, as in `make PYTHON=python reproduce`;
#           without it, make builds .venv from requirements.lock by itself
# TIMEOUT   seconds that one notebook may take                           (default: 6 hours)

CONFIG  ?= demo
TIMEOUT ?= 21600

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.SUFFIXES:
.PHONY: check-python help env images reproduce study studies test test-unit test-notebooks data notebooks publish publish-models predict lab lint format lock clean

# ------------------------------------------------------------------------------------ environment
# PYTHON counts on the command line only: a variable of that name in the shell may mean anything.

ifeq ($(origin PYTHON),command line)
  PY  := $(PYTHON)
  ENV := check-python
else
  PY  := .venv/bin/python
  ENV := .venv/.ready
endif

export PYTHONPATH := $(CURDIR)
export TF_CPP_MIN_LOG_LEVEL ?= 2

# ------------------------------------------------------------------------------------------ files

CONFIG_FILE := $(if $(filter %.yaml,$(CONFIG)),$(CONFIG),configs/$(CONFIG).yaml)
RUN         := $(basename $(notdir $(CONFIG_FILE)))
OUTPUT      := $(or $(SKIN_OUTPUT),.)

# the configuration's file names the run, so two files must not share a name
ifneq ($(wildcard configs/$(RUN).yaml),)
ifneq ($(abspath $(CONFIG_FILE)),$(abspath configs/$(RUN).yaml))
  $(error $(CONFIG_FILE): configs/$(RUN).yaml has that name too, and it names the run; rename one)
endif
endif

# metadata that changed, or another copy that was linked, makes a run stale
FOLDER      := $(shell sed -n 's/^  folder: *"\{0,1\}\([^" ]*\).*/\1/p' $(CONFIG_FILE) 2>/dev/null)
DATA        := $(wildcard $(FOLDER)/HAM10000_metadata.csv $(if $(filter data/ham10000,$(FOLDER)),data/.linked))
RUNS        := $(OUTPUT)/runs/$(RUN)/notebooks
REPORTS     := $(OUTPUT)/reports/$(RUN)

STUDIES     := leakage preprocessing speed tuning
NAMES       := $(basename $(notdir $(sort $(wildcard notebooks/[0-9]*.ipynb))))
EXECUTED    := $(NAMES:%=$(RUNS)/%.ipynb)
HTML        := $(NAMES:%=$(REPORTS)/%.html)

LIB         := $(wildcard lib/*.py lib/*/*.py)
TEMPLATES   := tools/reports.py $(wildcard tools/templates/*.j2 tools/templates/report/* tools/templates/report/static/*)

# synthetic images are drawn once; a configuration without the section data.synthetic needs none
SYNTHETIC   := $(if $(shell grep -s '^  synthetic:' $(CONFIG_FILE)),$(FOLDER)/synthetic.json)

# ---------------------------------------------------------------------------------------- targets

help: ## Show this list
	@awk '/^#/ {print substr($$0, 3); next} {exit}' Makefile
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-20s %s\n", $$1, $$2}' Makefile

env: $(ENV) ## Build .venv from requirements.lock (2 minutes, 2.5 GB)

check-python:
	@$(PY) -c 'import sys, importlib.util as u; sys.exit(not ((3, 11) <= sys.version_info[:2] < (3, 14) and u.find_spec("papermill")))' 2>/dev/null || \
	  { echo "error: $(PY): expected Python 3.11 to 3.13 with requirements.lock installed; found $$($(PY) --version 2>&1)" >&2; exit 1; }

.venv/.ready: requirements.lock tools/make_env.sh
	@sh tools/make_env.sh .venv

# A notebook runs when it, the configuration or lib changed, or a notebook it builds on ran. It is
# written under a temporary name and renamed at its end; a failure leaves NN_*.failed.ipynb to read.
reproduce: $(HTML) $(REPORTS)/index.html ## Execute every notebook, render every report (demo: 7 to 11 minutes, 0.5 GB)
	@echo "$(REPORTS)/index.html"

images: $(SYNTHETIC) | $(CONFIG_FILE) ## Draw the synthetic images of a configuration (demo: half a minute)

ifneq ($(SYNTHETIC),)
$(SYNTHETIC): | $(ENV)
	@$(PY) -m tools.synthetic $(CONFIG_FILE)
endif

$(RUNS)/01_data_survey.ipynb: $(DATA) $(SYNTHETIC) $(wildcard reports/studies/leakage/*.csv reports/studies/leakage/*.json)
$(RUNS)/02_preprocessing.ipynb: $(wildcard reports/studies/preprocessing/*.csv reports/studies/preprocessing/*.json)
$(RUNS)/%.ipynb: notebooks/%.ipynb $(CONFIG_FILE) $(LIB) | $(ENV)
	@mkdir -p $(@D)
	@rm -f $(REPORTS)/$*.html $(REPORTS)/index.html $(REPORTS)/metrics.json  # no longer true
	@$(PY) -m tools.reports execute $< --config $(CONFIG_FILE) --output $@ --timeout $(TIMEOUT)

# each notebook builds on the one before it, except that 03 and 04 both build on 02
before :=
$(foreach name,$(filter-out 04_%,$(NAMES)),$(eval $(RUNS)/$(name).ipynb: $(before))$(eval before := $(RUNS)/$(name).ipynb))
$(RUNS)/04_vgg16_transfer.ipynb: $(RUNS)/02_preprocessing.ipynb
$(RUNS)/05_evaluation.ipynb: $(RUNS)/04_vgg16_transfer.ipynb

$(REPORTS)/%.html: $(RUNS)/%.ipynb $(TEMPLATES) | $(ENV)
	@mkdir -p $(@D)
	@$(PY) -m tools.reports render $< --config $(CONFIG_FILE) --output $@

$(REPORTS)/index.html: $(HTML) $(TEMPLATES)
	@$(PY) -m tools.reports index --config $(CONFIG_FILE) --output $@ \
	  --metrics $(OUTPUT)/runs/$(RUN)/metrics.json $(HTML)

$(CONFIG_FILE):
	@echo "error: $@: no such configuration; there are: $(wildcard configs/*.yaml)" >&2; exit 1

data: $(ENV) ## Download HAM10000 (3 GB), SAMPLE=500 of it, or bring a copy FROM=<folder or zip>
	@$(PY) -m tools.acquire $(if $(FROM),--from "$(FROM)") $(if $(SAMPLE),--sample $(SAMPLE)) \
	  $(if $(DATASET),--dataset $(DATASET))

study: $(ENV) ## Measure a side experiment again: NAME=leakage, on data/ham10000 or FROM=<folder> (minutes to an hour)
	@test -f "studies/$(NAME).py" -o -d "studies/$(NAME)" && test -n "$(NAME)" || \
	  { echo "error: NAME=$(NAME): expected one of: $(STUDIES)" >&2; exit 1; }
	@$(PY) -m studies.$(NAME) "$(or $(FROM),data/ham10000)"

# commands of earlier versions
.PHONY: leakage ablation preprocessing bench-preprocessing bench-training
leakage ablation preprocessing bench-preprocessing bench-training:
	@echo "error: make $@ is now make study NAME=$(if $(filter bench%,$@),speed,$(if $(filter leakage,$@),leakage,preprocessing))" >&2; exit 1

notebooks: ## Refresh the committed notebooks with the outputs of the demo (7 minutes)
	@$(MAKE) --no-print-directory reproduce CONFIG=demo
	@$(MAKE) --no-print-directory refresh CONFIG=demo

.PHONY: refresh
refresh:
	@for name in $(NAMES); do \
	  $(PY) -m tools.reports refresh notebooks/$$name.ipynb $(RUNS)/$$name.ipynb || exit 1; done
	@for file in $(EXECUTED) $(HTML) $(REPORTS)/index.html; do touch $$file; done  # still up to date

publish: finished | $(ENV) ## Put a finished run's numbers into README.md and reports/<run>/published
	@$(PY) -m tools.publish $(CONFIG_FILE)

publish-models: finished | $(ENV) ## Put a finished run's networks into models/<run> (up to 40 MB)
	@$(PY) -m tools.publish_models $(CONFIG_FILE)

.PHONY: finished
finished:
	@$(MAKE) --question --no-print-directory ENV= $(REPORTS)/index.html || \
	  { echo "error: run $(RUN) is not up to date; make reproduce CONFIG=$(CONFIG) first" >&2; exit 1; }

# models/ham10000 unless CONFIG is given: the networks of the demonstration know no real image
predict: $(ENV) ## Classify IMAGE=<file or folder> with a published network, MODEL=vgg16_fine_tuned (15 seconds)
	@$(PY) -m tools.predict --config "$(if $(filter file,$(origin CONFIG)),ham10000,$(CONFIG))" \
	  $(if $(MODEL),--model "$(MODEL)") $(if $(IMAGE),-- "$(IMAGE)")

test: lint test-unit test-notebooks ## Everything CI checks (20 to 30 minutes on two cores)

test-unit: $(ENV) ## Unit tests and an end-to-end run of a tiny configuration (13 to 22 minutes)
	$(PY) -m pytest tests

# the readers' own runs are left alone: what the notebooks write goes to a folder of its own
test-notebooks: $(ENV) ## Re-execute the committed notebooks and compare their outputs (7 to 9 minutes)
	@$(MAKE) --no-print-directory images CONFIG=demo
	rm -rf runs/.nbval
	SKIN_OUTPUT=runs/.nbval $(PY) -m pytest --nbval --nbval-current-env \
	  --nbval-sanitize-with tests/nbval_sanitize.cfg --nbval-cell-timeout 1200 notebooks

lint: $(ENV) ## Check style and formatting, notebooks included
	$(PY) -m ruff check
	$(PY) -m ruff format --check

format: $(ENV) ## Mend style and formatting
	$(PY) -m ruff check --fix
	$(PY) -m ruff format

lab: $(SYNTHETIC) | $(ENV) ## Open the notebooks in JupyterLab
	$(PY) -m jupyter lab notebooks

lock: ## Resolve pyproject.toml into requirements.lock (needs uv)
	uv pip compile --universal --generate-hashes --python-version 3.11 --extra test \
	  --no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" \
	  --quiet --output-file requirements.lock pyproject.toml

# what was published is part of the repository, so it stays
clean: | $(CONFIG_FILE) ## Remove what the run CONFIG made; data, .venv, other runs and published results stay
	@test -n "$(RUN)" || { echo "error: CONFIG is empty" >&2; exit 1; }
	rm -rf "$(OUTPUT)/runs/$(RUN)"
	@if [ -d "$(REPORTS)" ]; then \
	  find "$(REPORTS)" -mindepth 1 -maxdepth 1 ! -name published -exec rm -rf {} + ; \
	  rmdir "$(REPORTS)" 2>/dev/null || true; fi
