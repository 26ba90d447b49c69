# make quickstart   set up .venv and watch a small model learn
# make stages       pretrain, instruct, evaluate and ask a small model, and explain it on a page
# make test         set up .venv and run the tests
# make help         the rest

PYTHON ?= python3
JOB ?= manifests/samples/quickstart.yaml

VENV := .venv
BIN := $(VENV)/bin
CRD := manifests/crd/llmtrainingjobs.windlass.dev.yaml
SOURCES := trainer operator tests benchmarks docs
export NO_MKDOCS_2_WARNING := 1

.PHONY: help quickstart stages test e2e lint format generate docs lock clean FORCE
.DELETE_ON_ERROR:

help:
	@echo 'make quickstart   set up .venv and watch a small model learn (JOB=FILE for another job)'
	@echo 'make stages       a small model learns in stages: text, then answers; then it is measured and asked'
	@echo 'make test         set up .venv and run the tests'
	@echo 'make e2e          tests on a real cluster and a real S3 server, named by KUBECONFIG and AWS_ENDPOINT_URL'
	@echo 'make lint         format, lint, types, layers, documentation, generated files'
	@echo 'make format       format and mend what can be mended'
	@echo 'make generate     make the CRD from windlass.spec, and manifests/operator from the chart'
	@echo 'make docs         build the documentation into site/'
	@echo 'make lock         write what .venv holds into constraints.txt'
	@echo 'make clean        remove .venv, caches and built files; runs/ and corpora/ stay'
	@echo 'PYTHON=python3.12 chooses the Python, 3.11 or newer.'

quickstart: $(VENV)/train
	@$(BIN)/windlass run $(JOB)

# Both models on text that neither has read: code and prose of this project.
stages: $(VENV)/train
	@$(BIN)/windlass run manifests/samples/stages.yaml
	@for run in stages-pretrain stages-instruct; do \
	$(BIN)/windlass evaluate $$run --text 'trainer/windlass/spec/*.py' --text 'docs/*.md' --limit 100 || exit; done
	@$(BIN)/windlass generate stages-instruct --prompt 'What does json.dumps do?'
	@echo 'What happened: runs/stages.html'

test: $(VENV)/dev
	@$(BIN)/python -m pytest tests --ignore=tests/e2e -n 2 --dist loadfile --no-loadscope-reorder

e2e: $(VENV)/dev
	@$(BIN)/python -m pytest tests/e2e -rP --durations=12

lint: $(VENV)/dev
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/mypy $(SOURCES)
	$(BIN)/lint-imports --no-logo
	$(BIN)/python -m windlass.spec.crd | diff -u $(CRD) - || { echo 'The CRD is out of date: run make generate.'; exit 1; }
	$(BIN)/mkdocs build --strict --quiet --site-dir build/site

format: $(VENV)/dev
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --fix $(SOURCES)

generate: $(VENV)/dev
	$(BIN)/python -m windlass.spec.crd > $(CRD)
	cp $(CRD) charts/windlass/crd/
	@command -v helm >/dev/null || echo 'helm is not on the PATH: manifests/operator/operator.yaml stays as it is.'
	! command -v helm >/dev/null || manifests/operator/render.sh > manifests/operator/operator.yaml

docs: $(VENV)/dev
	$(BIN)/mkdocs build --strict
	@echo 'Open site/index.html.'

# For every platform: neither PyTorch's +cpu or +cu builds nor the CUDA packages that PyTorch pins by itself.
lock: $(VENV)/dev
	$(BIN)/python -m pip freeze --all --exclude-editable | grep -vE '^(pip|nvidia-.*|cuda-.*|triton)[ =]' \
	| sed 's/+[a-z0-9.]*$$//' > constraints.txt

clean:
	rm -rf $(VENV) build site .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis

# Set-up. A file in .venv marks each finished step and is written last, so that an interrupted one is done again.

$(VENV)/made-in:
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Windlass needs Python 3.11 or newer; \
	$(PYTHON) is %s. Choose another: make $(MAKECMDGOALS) PYTHON=python3.12" % sys.version.split()[0])'
	@$(PYTHON) -m venv --clear $(VENV)
	@printf '%s' '$(CURDIR)' > $@

# Once more where .venv was made in another folder (it was moved) or its Python is gone.
ifneq ($(shell $(BIN)/python -c 'import sys; print(open(sys.prefix + "/made-in").read())' 2>/dev/null),$(CURDIR))
$(VENV)/made-in: FORCE
endif

$(VENV)/train: $(VENV)/made-in pyproject.toml constraints.txt
	@echo 'Setting up .venv with PyTorch and Ray: once, some minutes.'
	$(call install,.[train])

$(VENV)/dev: $(VENV)/made-in pyproject.toml constraints.txt
	@echo 'Setting up .venv with PyTorch, Ray and the development tools: once, some minutes.'
	$(call install,.[dev])
	@touch $(VENV)/train

# pip prints hundreds of lines: show the big downloads, and the end of its log where it fails. A pipe hides pip's exit
# status, so the mark, written after pip, tells whether it got to the end.
define install
	@rm -f $@
	@( $(BIN)/python -m pip install --constraint constraints.txt --editable '$(1)' 2>&1 && touch $@ ) \
	| tee $(VENV)/pip.log \
	| grep --line-buffered --only-matching -E 'Downloading [^ ]+ \([0-9]{2,}.* MB\)|Installing collected packages' || true
	@test -f $@ || { tail -n 20 $(VENV)/pip.log; echo 'Set-up failed; all of it is in $(VENV)/pip.log.'; exit 1; }
endef
