# Skin lesions in dermoscopic images: notebooks in, HTML reports out.
#
#   make reproduce                         run the demo on synthetic images
#   make data                              download HAM10000 (see data/README.md), or use a copy:
#   make data FROM=<folder or zip>         (CONVERT=1: grey, 16-bit, WebP, TIFF and others to RGB)
#   make reproduce CONFIG=ham10000_lite    run the notebooks on real images
#
# CONFIG    a name in configs/, or the path of your own YAML file             (default: demo)
# PYTHON    the Python of an active environment: make PYTHON=python reproduce
#           (default: .venv, which make builds from requirements.lock)
# TIMEOUT   the longest time one notebook may take, in seconds                (default: 6 hours)

# what a command acts on is said on its own line: in the shell, variables of these names may mean
# anything
ARGUMENTS := CONFIG TIMEOUT FROM SAMPLE DATASET CONVERT FAULTY NAME MODEL IMAGE EXTERNAL
IGNORED   := $(strip $(foreach name,$(ARGUMENTS),$(if $(filter environment,$(origin $(name))),$(name))))
ifneq ($(IGNORED),)
  $(shell echo "ignored, since they are from the shell: $(IGNORED)" >&2)
  $(foreach name,$(IGNORED),$(eval $(name) :=))
endif

CONFIG  := $(or $(CONFIG),demo)
TIMEOUT := $(or $(TIMEOUT),21600)

# they reach the shell by the environment, where no character in a folder's name means anything
$(foreach name,$(ARGUMENTS),$(eval export ARG_$(name) := $$(value $(name))))

# make itself cannot handle some characters in the names of its files
FORBIDDEN := \# % ' " \ ; & | < > ( ) * ? [ ] { } ! ` , = : $$
faults     = $(strip $(foreach char,$(FORBIDDEN),$(findstring $(char),$(value $1))) $(if $(word 2,$(value $1)),space))
$(foreach name,CONFIG SKIN_OUTPUT,$(if $(call faults,$(name)),$(error $(name)=$(value $(name)): in this name make cannot handle: $(call faults,$(name)); choose another)))

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.SUFFIXES:
.PHONY: help env check-python images check reproduce evaluate data study studies notebooks refresh finished
.PHONY: publish publish-models publish-external rescore predict external-test lab test test-unit test-notebooks lint format lock clean

# ------------------------------------------------------------------------------------ environment
# PYTHON is read from the command line only: in the shell, a variable of that name may mean anything.

ifeq ($(origin PYTHON),command line)
  PY  := "$(PYTHON)"
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

# the file name of the configuration names the run, so it must be unique
ifneq ($(wildcard configs/$(RUN).yaml),)
ifneq ($(abspath $(CONFIG_FILE)),$(abspath configs/$(RUN).yaml))
  $(error $(CONFIG_FILE): configs/$(RUN).yaml has the same name, which names the run; rename one)
endif
endif

ifeq ($(RUN),studies)
  $(error $(CONFIG_FILE): reports/studies holds the side experiments; rename the configuration)
endif

RUNS        := $(OUTPUT)/runs/$(RUN)/notebooks
REPORTS     := $(OUTPUT)/reports/$(RUN)

# notebooks 08 and 09 have inputs and targets of their own
NAMES       := $(basename $(notdir $(sort $(filter-out notebooks/08_% notebooks/09_%,$(wildcard notebooks/[0-9]*.ipynb)))))
EXECUTED    := $(NAMES:%=$(RUNS)/%.ipynb)
HTML        := $(NAMES:%=$(REPORTS)/%.html)

# side experiments belong to no run, but its reports link to them; reports/studies/<name>/ holds
# their measurements
STUDIES     := $(basename $(notdir $(sort $(wildcard notebooks/studies/*.ipynb))))
STUDY_RUNS  := $(OUTPUT)/runs/studies/notebooks
STUDY_COPY  := $(STUDIES:%=$(STUDY_RUNS)/%.ipynb)
STUDY_HTML  := $(STUDIES:%=$(OUTPUT)/reports/studies/%.html)

# Key files say what a notebook depends on: its part of the configuration, and the modules that it
# imports, without comments and docstrings. data.key says which files the data folder has, of which
# size and time. Once there are some, they are brought up to date here, if any of this has changed;
# `watched` lists the data folder and other files that the configuration names.
KEYS        := $(OUTPUT)/runs/$(RUN)/keys
STUDY_KEYS  := $(OUTPUT)/runs/studies/keys
# what the notebook of a study reads of other results
STUDY_READS_variance := $(wildcard reports/*/published/metrics.json)
STUDY_READS_speed    := $(wildcard reports/studies/heatmaps/*.json)
KEY_FILES   := $(NAMES:%=$(KEYS)/%.key) $(STUDIES:%=$(STUDY_KEYS)/%.key)
ifneq ($(wildcard $(KEYS)/checked),)
  SOURCES := \( -name '*.py' -o -name '*.csv' -o -name '*.ipynb' -o -name '*.yaml' -o -type d ! -name '[_.]*' \)
  CHANGED := $(shell find $(CONFIG_FILE) lib studies tools notebooks $(SOURCES) -newer $(KEYS)/checked 2>/dev/null; \
    while IFS= read -r place; do for how in -P -L; do \
      find $$how "$$place" -cnewer $(KEYS)/checked 2>/dev/null || echo gone; done | head -n 1; done <$(KEYS)/watched)
  ifneq ($(CHANGED)$(filter-out $(wildcard $(KEY_FILES)),$(KEY_FILES)),)
    $(shell SKIN_OUTPUT="$(SKIN_OUTPUT)" $(PY) -m tools.stages $(CONFIG_FILE))
  endif
endif

# The check of a run comes before its first notebook. It is made again when the key file of a notebook
# that computes has changed; PREFLIGHT= leaves it out.
PREFLIGHT   := $(KEYS)/preflight
COMPUTING   := $(filter 01_% 02_% 03_% 04_%,$(NAMES))

RENDERER    := $(wildcard tools/render.py tools/index_page.py tools/narrow_tables.py tools/notebook_files.py \
               tools/templates/*.j2 tools/templates/report/* tools/templates/report/static/*)

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

images: $(KEYS)/data.key ## Draw the synthetic images of a configuration (demo: 30 seconds)

check: | $(CONFIG_FILE) $(ENV) ## Check networks, images, groups, disk and memory of a run; estimate its time (10 to 40 seconds)
	@$(PY) -m tools.check $(CONFIG_FILE)

$(KEYS)/preflight: $(KEYS)/data.key $(COMPUTING:%=$(KEYS)/%.key) $(KEYS)/06_heatmaps.key | $(ENV)
	@$(PY) -m tools.check $(CONFIG_FILE)
	@touch $@

INDEX = $(PY) -m tools.reports index --config $(CONFIG_FILE) --output $(REPORTS)/index.html \
  --metrics $(OUTPUT)/runs/$(RUN)/metrics.json

# if one of these fails, the scores of 05 are still up to date, so the others get their index
LATER := $(filter-out 01_% 02_% 03_% 04_% 05_%,$(NAMES))

# A notebook runs when the notebook or its key file changed, or when a notebook before it ran. It is
# written to a temporary file and renamed; a failed one is kept as NN_*.failed.ipynb.
reproduce: $(HTML) $(REPORTS)/index.html $(STUDY_HTML) ## Execute the notebooks, render the reports (demo: 5 to 20 minutes, 0.5 GB)
	@echo "$(REPORTS)/index.html"

$(RUNS)/01_data_survey.ipynb: $(KEYS)/data.key $(wildcard reports/studies/leakage/*.csv reports/studies/leakage/*.json)
$(RUNS)/02_preprocessing.ipynb: $(wildcard reports/studies/preprocessing/*.csv reports/studies/preprocessing/*.json)
$(RUNS)/%.ipynb: notebooks/%.ipynb $(KEYS)/%.key | $(ENV) $(PREFLIGHT)
	@mkdir -p $(@D)
	@rm -f $(REPORTS)/$*.html $(REPORTS)/index.html $(REPORTS)/metrics.json  # outdated
	@$(PY) -m tools.reports execute $< --config $(CONFIG_FILE) --output $@ --timeout $(TIMEOUT) || \
	  { $(if $(filter $*,$(LATER)),$(INDEX) $(REPORTS)/[0-9]*.html;) exit 1; }

# each notebook builds on the one before; 03 and 04 both build on 02, so make -j2 runs them together
before :=
$(foreach name,$(filter-out 04_%,$(NAMES)),$(eval $(RUNS)/$(name).ipynb: $(before))$(eval before := $(RUNS)/$(name).ipynb))
$(RUNS)/04_vgg16_transfer.ipynb: $(RUNS)/02_preprocessing.ipynb
$(RUNS)/05_evaluation.ipynb: $(RUNS)/04_vgg16_transfer.ipynb $(wildcard reports/studies/variance/$(RUN).*)
$(RUNS)/06_heatmaps.ipynb: $(wildcard reports/studies/heatmaps/$(RUN).json)

$(KEYS)/page.key: | $(CONFIG_FILE) $(ENV)
	@$(PY) -m tools.stages $(CONFIG_FILE)
$(KEY_FILES): | $(KEYS)/page.key ;

$(KEYS)/data.key: | $(KEYS)/page.key
	@$(PY) -m tools.stages --draw $(CONFIG_FILE)

$(REPORTS)/%.html: $(RUNS)/%.ipynb $(KEYS)/page.key $(RENDERER) | $(ENV)
	@mkdir -p $(@D)
	@$(PY) -m tools.reports render $< --config $(CONFIG_FILE) --output $@

$(REPORTS)/index.html: $(HTML) $(KEYS)/page.key $(RENDERER)
	@$(INDEX) $(HTML)

$(CONFIG_FILE):
	@echo "error: $@: no such configuration; available: $(wildcard configs/*.yaml)" >&2; exit 1

evaluate: ## Execute notebook 05 and what follows again (demo: 1 to 3 minutes)
	@rm -f $(RUNS)/05_evaluation.ipynb
	@$(MAKE) --no-print-directory reproduce

data: $(ENV) ## Download HAM10000 (3 GB), a part of it (SAMPLE=500), or use a copy (FROM=<folder or zip>)
	@$(PY) -m tools.get_dataset $(if $(value FROM),--from="$$ARG_FROM") \
	  $(if $(value SAMPLE),--sample="$$ARG_SAMPLE") $(if $(value DATASET),--dataset="$$ARG_DATASET") \
	  $(if $(filter-out 0 no,$(value CONVERT)),--convert) $(if $(filter-out 0 no,$(value FAULTY)),--faulty)

study: $(ENV) ## Measure a side experiment again: NAME=leakage [FROM=<HAM10000 folder>], NAME=variance or heatmaps CONFIG=<finished run>; not tuning (minutes to hours)
	@test -n "$(and $(NAME),$(filter $(NAME),$(STUDIES)))" || \
	  { echo "error: NAME=$(NAME): expected one of: $(STUDIES)" >&2; exit 1; }
	@$(MAKE) --no-print-directory images CONFIG=demo
	@$(PY) -m studies.$(NAME) "$(if $(filter variance heatmaps,$(NAME)),$(CONFIG_FILE),$${ARG_FROM:-data/ham10000})"

studies: $(STUDY_HTML) ## Execute and render only the notebooks of the side experiments (1 to 3 minutes)
	@printf '%s\n' $(STUDY_HTML)

.SECONDEXPANSION:
$(STUDY_COPY): $(STUDY_RUNS)/%.ipynb: notebooks/studies/%.ipynb $(STUDY_KEYS)/%.key $$(wildcard reports/studies/$$*/*) $$(STUDY_READS_$$*) | $(ENV)
	@mkdir -p $(@D)
	@$(PY) -m tools.reports execute $< --output $@ --timeout $(TIMEOUT)

$(OUTPUT)/reports/studies/%.html: $(STUDY_RUNS)/%.ipynb $(RENDERER) | $(ENV)
	@mkdir -p $(@D)
	@$(PY) -m tools.reports render $< --output $@

notebooks: ## Refresh the outputs of the committed notebooks: demo and side experiments (6 to 25 minutes)
	@$(MAKE) --no-print-directory reproduce CONFIG=demo
	@$(MAKE) --no-print-directory external-test CONFIG=demo
	@$(MAKE) --no-print-directory refresh CONFIG=demo

refresh:
	@for name in $(NAMES) 08_external_test; do \
	  $(PY) -m tools.reports refresh notebooks/$$name.ipynb $(RUNS)/$$name.ipynb || exit 1; done
	@for name in $(STUDIES); do \
	  $(PY) -m tools.reports refresh notebooks/studies/$$name.ipynb $(STUDY_RUNS)/$$name.ipynb || exit 1; done
	@for file in $(EXECUTED) $(HTML) $(REPORTS)/index.html $(STUDY_COPY) $(STUDY_HTML); do \
	  touch -c $$file; done  # still up to date

publish: finished | $(ENV) ## Copy the numbers of a finished run to README.md and reports/<run>/published (seconds)
	@$(PY) -m tools.publish $(CONFIG_FILE)

publish-external: $(ENV) ## Copy the numbers of make external-test to README.md and reports/<run>/external (seconds)
	@$(PY) -m tools.publish_external $(CONFIG_FILE)

publish-models: finished | $(ENV) ## Copy the networks of a finished run to models/<run> (seconds, up to 40 MB)
	@$(PY) -m tools.publish_models $(CONFIG_FILE)

rescore: $(ENV) ## Score the published predictions of a run again, after adding a score (seconds)
	@$(PY) -m tools.rescore $(RUN)

finished:
	@$(MAKE) --question --no-print-directory ENV= PREFLIGHT= $(REPORTS)/index.html || \
	  { echo "error: run $(RUN) is not up to date; make reproduce CONFIG=$(CONFIG) first" >&2; exit 1; }

# the default is models/ham10000: the networks of the demo have not seen a real image
predict: $(ENV) ## Classify IMAGE=<file or folder> with a published network, MODEL=vgg16_fine_tuned (15 seconds)
	@$(PY) -m tools.predict --config "$(if $(filter file,$(origin CONFIG)),ham10000,$(CONFIG))" \
	  $(if $(value MODEL),--model="$$ARG_MODEL") $(if $(value IMAGE),-- "$$ARG_IMAGE")

# without a folder, the demonstration draws images as another clinic would photograph them
ELSEWHERE := "$${ARG_EXTERNAL:-$(if $(filter demo,$(RUN)),data/synthetic_elsewhere)}"
external-test: $(ENV) $(if $(filter demo,$(RUN)),finished) ## Test the network of a run on images from elsewhere: CONFIG=ham10000 EXTERNAL=<folder> (notebook 08)
	@test -n $(ELSEWHERE) || { echo "error: EXTERNAL=<folder with images and a table> is missing" >&2; exit 1; }
	@test -n "$$ARG_EXTERNAL" || test -d $(ELSEWHERE) || \
	  $(PY) -m tools.synthetic --folder $(ELSEWHERE) --lesions 120 --seed 8 --elsewhere
	@$(PY) -m tools.external_test $(RUN) $(ELSEWHERE) $(if $(filter demo,$(RUN)),--run-network)
	@mkdir -p $(RUNS)
	@$(PY) -m tools.reports execute notebooks/08_external_test.ipynb --config $(CONFIG_FILE) \
	  --output $(RUNS)/08_external_test.ipynb --timeout $(TIMEOUT)
	@$(PY) -m tools.reports render $(RUNS)/08_external_test.ipynb --config $(CONFIG_FILE) \
	  --output $(REPORTS)/08_external_test.html
	@echo "$(REPORTS)/08_external_test.html"

lab: images ## Open the notebooks in JupyterLab (draws the synthetic images first)
	$(PY) -m jupyter lab notebooks

# Two processes share the tests, file by file; tests/conftest.py gives all notebooks to one of them.
# What the notebooks write goes to a folder of its own, so your own runs stay as they are.
PARALLEL := -n 2 --no-loadscope-reorder
NBVAL    := --nbval --nbval-current-env --nbval-sanitize-with tests/nbval_sanitize.cfg --nbval-cell-timeout 1200

test: lint $(ENV) ## Run everything CI checks (20 to 60 minutes on two cores)
	@$(MAKE) --no-print-directory images CONFIG=demo
	@rm -rf runs/.nbval
	SKIN_OUTPUT=runs/.nbval $(PY) -m pytest $(PARALLEL) $(NBVAL) --doctest-modules notebooks tests lib

test-unit: $(ENV) ## Run the unit tests, the docstring examples and a tiny run from end to end (10 to 35 minutes)
	$(PY) -m pytest $(PARALLEL) --doctest-modules tests lib

test-notebooks: $(ENV) ## Execute the committed notebooks again and compare their outputs (5 to 20 minutes)
	@$(MAKE) --no-print-directory images CONFIG=demo
	@rm -rf runs/.nbval
	SKIN_OUTPUT=runs/.nbval $(PY) -m pytest $(NBVAL) notebooks

lint: $(ENV) ## Check style and formatting, notebooks included (seconds)
	$(PY) -m ruff check
	$(PY) -m ruff format --check

format: $(ENV) ## Fix style and formatting (seconds)
	$(PY) -m ruff check --fix
	$(PY) -m ruff format

lock: ## Resolve pyproject.toml into requirements.lock (1 minute, needs uv)
	uv pip compile --universal --generate-hashes --python-version 3.11 --extra test \
	  --no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" \
	  --quiet --output-file requirements.lock pyproject.toml

# what was published is part of the repository, so it stays
clean: | $(CONFIG_FILE) ## Delete the files of a run, CONFIG; data, .venv, other runs and published results stay
	@test -n "$(RUN)" || { echo "error: CONFIG is empty" >&2; exit 1; }
	rm -rf "$(OUTPUT)/runs/$(RUN)"
	@if [ -d "$(REPORTS)" ]; then \
	  find "$(REPORTS)" -mindepth 1 -maxdepth 1 ! -name published ! -name external -exec rm -rf {} + ; \
	  rmdir "$(REPORTS)" 2>/dev/null || true; fi
