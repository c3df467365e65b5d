"""Fixtures that every part of the tests may use, and how the tests share the cores."""

import functools
import gc
import itertools
import os
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

# Before torch is imported, here and in child processes: on models this small a second thread only waits for the first.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# What tests start are hundreds of Pythons, none of which is to compile our modules again, whoever calls pytest.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
LIGHT = (  # what `make check` runs: these load no torch
    "test_", "cluster/", "jobs/test_memory", "jobs/test_mps", "jobs/test_pack", "tiny_transformers/common/",
    "tiny_transformers/data/test_characters", "tiny_transformers/data/test_sources",
    "tiny_transformers/settings/test_brainformer_architecture",
    "tiny_transformers/settings/test_kinds", "tiny_transformers/settings/test_order",
    "tiny_transformers/settings/test_stages",
)  # fmt: skip
HEAVY = (  # but for these, which take long: processes, drawings, whole studies and data
    "cluster/cli/", "cluster/test_archive", "cluster/test_foreign_archive", "cluster/test_scale",
    "cluster/ledger/test_locking", "cluster/reconcile/test_notify", "cluster/report/test_comparison",
    "cluster/report/test_figures", "cluster/report/test_frames", "cluster/report/test_insides",
    "cluster/report/test_page", "cluster/report/test_printing", "cluster/report/test_report",
    "cluster/report/test_results", "cluster/report/test_trajectories", "cluster/status/test_terminal",
    "cluster/submit/test_code_copy", "cluster/submit/test_refusals", "jobs/test_pack", "test_wheel",
    "tiny_transformers/data/",
)  # fmt: skip
ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
OTHERS, NO_TORCH = "others", "others that load no torch"  # the shares of workers that have no cluster
MEMORY, ROOM = Path("/dev/shm"), 4 << 30
TEMPORARY = pytest.StashKey[str]()
SHARES = pytest.StashKey[list[str]]()
gc.disable()  # until all is collected: what is loaded stays


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real data: TinyStories, BLiMP, GLUE and the 10k tokenizer."""
    if not (SHARED / "data" / "tinystories").is_dir():
        pytest.skip("the real data is not here: ../shared/data is absent")
    return SHARED / "data"


@pytest.fixture(scope="session")
def builtin_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache for all test workers: the builtin data takes seconds to make, and its stories to be encoded."""
    here = tmp_path_factory.getbasetemp()
    return (here.parent if "PYTEST_XDIST_WORKER" in os.environ else here) / "cache"


@pytest.fixture(scope="session")
def builtin_root(builtin_cache: Path) -> Path:
    """The builtin data, to be read."""
    from tiny_transformers.data import sources
    from tiny_transformers.settings.config import RunConfig

    builtin = {"model": {"family": "gpt_neo"}, "data": {"source": "builtin"}}
    return sources.resolve_root(RunConfig.model_validate(builtin), None, builtin_cache)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--light", action="store_true", help="only what `make check` runs")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Temporary files are in memory, where there is room: ledgers and whole files wait for a disk again and again.
    Ctrl-C is heard by what tests start, though a shell ignores it for what it starts in the background. And workers
    without a cluster give way to those with one."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if hasattr(config, "workerinput"):
        if config.workerinput.get("share") == OTHERS and not config.getoption("--light"):
            os.nice(NICER)
        return
    if config.option.basetemp or not os.access(MEMORY, os.W_OK):
        return
    there = os.statvfs(MEMORY)
    if there.f_bavail * there.f_frsize >= ROOM and not there.f_flag & os.ST_NOEXEC:
        config.option.basetemp = config.stash[TEMPORARY] = tempfile.mkdtemp(prefix="tiny-transformers-", dir=MEMORY)


def pytest_unconfigure(config: pytest.Config) -> None:
    if folder := config.stash.get(TEMPORARY, None):
        shutil.rmtree(folder, ignore_errors=True)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    place = collection_path.relative_to(Path(__file__).parent).as_posix()
    if place == ".":
        return None
    if config.getoption("--light") and (not is_light(place) or f"{place}/".startswith(HEAVY)):
        return True
    share = getattr(config, "workerinput", {}).get("share")
    return None if share is None or share in shares_in(place) else True


def is_light(place: str) -> bool:
    """Whether this file or folder of tests/ has tests that load no torch."""
    return f"{place}/".startswith(LIGHT) or any(each.startswith(f"{place}/") for each in LIGHT)


# Tests that go to one worker: those of a cluster, those that fork from what fresh.py loads, since that takes long, and
# those of a module with fixtures that are made once for it. The longest, first.
CLUSTERS = {  # what comes later holds; the shares take about as long
    "tests/slurm/": "slurm",
    "tests/slurm/test_requeue.py": "slurm's limits",
    "tests/slurm/test_without_accounting.py": "slurm's limits",
    "tests/slurm/calm/": "slurm beside",
    "tests/slurm/calm/test_disks.py": "slurm's commands",
    "tests/slurm/calm/test_orchestrator.py": "slurm's commands",
    "tests/slurm/calm/test_foreign.py": "slurm and others",
    "tests/slurm/calm/test_pipeline.py": "slurm and others",
    "tests/slurm/calm/test_programs.py": "slurm and others",
}
if os.environ.get("TT_SLURM_CONF"):  # the one for all with accounting
    CLUSTERS |= {path: "slurm" for path in CLUSTERS if "/calm/" in path}
NICER = 3  # than workers of clusters are those that never wait, so that who has waited goes on at once


@functools.cache
def group_of(path: str) -> str | None:
    """By the path of a test's module, as its id begins; None: each of its tests may go anywhere."""
    if named := [name for beginning, name in CLUSTERS.items() if path.startswith(beginning)]:
        return named[-1]
    text = (ROOT / path).read_text()
    return "fresh processes" if "fresh.python(" in text else path if 'scope="module"' in text else None


def shares_in(place: str) -> set[str]:
    """Which workers' tests are in this file or folder of tests/: a cluster's, or those of others."""
    path = ROOT / "tests" / place
    if place.startswith("slurm"):
        return {group_of(f"tests/{place}") or ""} if path.is_file() else set(CLUSTERS.values())
    if not is_light(place):
        return {OTHERS}
    # hypothesis takes seconds to load, and then reads all modules of ours: one worker does.
    return {NO_TORCH} if path.is_file() and "from hypothesis import" in path.read_text() else {OTHERS, NO_TORCH}


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """As many as there are cores; one more for what loads no torch, where commands and jobs are waited for; and one
    more for each cluster, whose tests wait most. Each of these loads no more than it needs."""
    cores = min(os.cpu_count() or 1, 8)
    all_of_them = [*dict.fromkeys(CLUSTERS.values()), NO_TORCH, *[OTHERS] * cores]
    config.stash[SHARES] = [NO_TORCH, *[OTHERS] * (cores - 1)] if config.getoption("--light") else all_of_them
    return len(config.stash[SHARES])


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a worker what its share is. One that is there for a worker that crashed has all tests, as without shares."""
    number = int(node.gateway.id.removeprefix("gw"))
    shares = node.config.stash.get(SHARES, [])
    node.workerinput["share"] = shares[number] if number < len(shares) else None


def pytest_itemcollected(item: pytest.Item) -> None:
    given = getattr(item, "callspec", None)
    if given and {"variant", "family"} <= given.params.keys():
        from variants import is_more_of_the_same  # which loads torch, as such a test's module has

        if is_more_of_the_same(given.params["variant"], given.params["family"]):
            item.add_marker(pytest.mark.longer)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Clusters' tests first; what every worker can do that has no cluster, last, and of that what is short at the very
    end: workers then end together."""
    paths = {item.nodeid: item.nodeid.partition("::")[0] for item in items}
    groups = {name: group_of(path) for name, path in paths.items()}
    sizes = Counter(groups.values())

    def order(item: pytest.Item) -> tuple[int, int]:
        group, path = groups[item.nodeid], paths[item.nodeid].removeprefix("tests/")
        turn = 0 if group in CLUSTERS.values() else 1
        if is_light(path):
            turn = 2 if path.startswith(HEAVY) else 3
        return turn, -sizes[group] if group else 0

    items.sort(key=order)


def pytest_collection_finish() -> None:
    gc.enable()
    gc.freeze()  # what is loaded by now stays, and need not be looked through again and again
    gc.set_threshold(20_000)  # and what tests make is looked through more seldom


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        """Groups stay together, and go to a worker that has collected them."""

        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid.partition("::")[0]) or nodeid

        def add_node_collection(self, node: Any, collection: Sequence[str]) -> None:
            self.registered_collections[node] = list(collection)

        def schedule(self) -> None:
            if self.collection is None:
                largest_first = sorted(self.registered_collections.values(), key=len, reverse=True)  # as it is in order
                self.collection = list(dict.fromkeys(itertools.chain(*largest_first)))
                self.config.pluginmanager.get_plugin("session").testscollected = len(self.collection)
                for nodeid in self.collection:
                    self.workqueue.setdefault(self._split_scope(nodeid), {})[nodeid] = False
            for node in self.nodes * 2:  # a test that runs, and one that is next
                self._reschedule(node)

        def _reschedule(self, node: Any) -> None:
            if not node.shutting_down and self._pending_of(self.assigned_work[node]) <= 2:
                known = set(self.registered_collections[node])
                if scope := next((scope for scope, unit in self.workqueue.items() if known.issuperset(unit)), None):
                    self.workqueue.move_to_end(scope, last=False)
                    self._assign_work_unit(node)
                else:
                    node.shutdown()

    return Scheduling(config, log)


MANIFEST = """
defaults:
  data: {source: builtin}
models:
  gpt: {family: gpt_neo, hidden_size: 32, num_layers: 2, num_heads: 2, intermediate_size: 48}
  bert: {family: roberta, hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 2, intermediate_size: 48}
studies:
  first:
    grid:
      model: [gpt, bert]
      model.activation: [gelu, relu]
  second:
    model: gpt
    grid: {model.activation: [relu, silu]}
    seeds: [42, 1]
smoke:
  train.max_steps: 3
"""


@pytest.fixture(autouse=True)
def random_state(request: pytest.FixtureRequest) -> None:
    """Each test begins in the same random state, whichever ran before it; most never load torch."""
    if torch := sys.modules.get("torch"):
        assert not request.config.getoption("--light"), "something that should be light has loaded torch"
        torch.default_generator.manual_seed(0)


@pytest.fixture(autouse=True)
def own_stages_are_forgotten() -> Iterator[None]:
    """The stages that a manifest defines stay known in its process."""
    yield
    if known := sys.modules.get("tiny_transformers.settings.stage.known"):
        known.forget_all()


@pytest.fixture
def manifest_file(tmp_path: Path) -> Path:
    """Seven runs: four in `first`, four in `second`, one of them shared."""
    path = tmp_path / "experiments.yaml"
    path.write_text(MANIFEST)
    return path


@pytest.fixture
def few_runs(manifest_file: Path) -> Path:
    """The same manifest with one seed, for what starts processes: five runs, four in `first`, two in `second`."""
    manifest_file.write_text(MANIFEST.replace("seeds: [42, 1]", "seeds: [42]"))
    return manifest_file


@pytest.fixture
def fake_science(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand-ins for the stages in every child process; write to the returned file to tell them what to do."""
    told = tmp_path / "fake_science.json"
    told.write_text("{}")
    monkeypatch.setenv("FAKE_SCIENCE", str(told))
    here = Path(__file__).parent
    # This checkout, too, whatever is installed.
    monkeypatch.setenv("PYTHONPATH", f"{here / 'fake_science'}:{here.parent}")
    return told
