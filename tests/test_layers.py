"""Imports point one way, and each library is known in one place only."""

import ast
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAYERS = ["cache", "engine", "scheduler", "api"]  # each may import those before it
API_FLOORS = [
    # Each file and folder of api/ imports those of the floors after its own, and none of its own floor.
    {"command"},
    {"app"},
    {"messages", "openai"},
    {"pipeline"},
    {"models", "health", "request_routes", "session_routes", "status", "preparation"},
    {"services", "middleware"},
    {"twins", "api_keys"},
    {"prompt", "grammar", "output", "queue_gate"},
    {"reports"},
    {"formats", "answer_options", "metrics", "body", "tool_search"},
    {
        "errors",
        "schema",
        "protocols",
        "config",
        "origins",
        "request_origin",
        "stats_collector",
        "vllm_names",
        "web_search",
    },
    {"generation", "guided_fields"},
    {"lenient", "refused_fields", "tidy_schema", "unknown_blocks", "context_edits"},
    {"public_tools", "server_tools", "server_rounds", "wire_base", "keys_file", "bounded_json"},
]
WEB = {"fastapi", "pydantic", "starlette", "uvicorn", "prometheus_client"}
MLX = {"mlx", "mlx_lm"}

# The half of each package that decides; it must be quick to test by the thousand.
PLAIN = [
    "cache/blocks.py",
    "cache/checkpoints.py",
    "cache/disk/*.py",
    "cache/radix.py",
    "cache/state_slots.py",
    "cache/tree_nodes.py",
    "scheduler/*.py",
    "engine/step.py",
    "engine/config.py",
    "engine/served_model.py",
]

SOURCES = sorted(path for layer in [*LAYERS, "bench"] for path in (ROOT / layer).rglob("*.py"))


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imports(path: Path) -> set[str]:
    """Modules that a file imports; those of the package by their path, as in `engine.step`."""
    package = relative(path).split("/")[:-1]
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.removeprefix("pensieve.") for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add((node.module or "").removeprefix("pensieve."))
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level]
            modules = [node.module] if node.module else [alias.name for alias in node.names]
            found |= {".".join([*base, module]) for module in modules}
    return found


def top(module: str) -> str:
    return module.split(".")[0]


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_imports_point_one_way(path: Path) -> None:
    layer = relative(path).split("/")[0]
    forbidden = set(LAYERS) if layer == "bench" else set(LAYERS[LAYERS.index(layer) + 1 :]) | {"bench"}
    if relative(path).startswith("bench/micro/"):
        forbidden = set()  # they measure parts of the server, in its own process
    if relative(path) in ("api/command/cli.py", "api/command/command_line.py"):
        forbidden.remove("bench")  # `pensieve bench` is one of the command's two halves
    assert not {name for name in imports(path) if top(name) in forbidden | {"tests"}}


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_only_the_api_knows_the_web(path: Path) -> None:
    if not relative(path).startswith(("api/", "bench/")):
        assert not {name for name in imports(path) if top(name) in WEB}


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_only_the_engine_and_the_pools_know_mlx(path: Path) -> None:
    pools = ("cache/kv.py", "cache/states.py")
    if not relative(path).startswith(("engine/", "bench/micro/", *pools)):
        assert not {name for name in imports(path) if top(name) in MLX}


@pytest.mark.parametrize(
    "path", [path for pattern in PLAIN for path in sorted(ROOT.glob(pattern))], ids=relative
)
def test_what_decides_is_free_of_arrays(path: Path) -> None:
    assert not {name for name in imports(path) if top(name) in MLX | {"numpy"}}


def test_no_module_imports_itself_through_others() -> None:
    check_no_cycle({relative(path)[:-3].replace("/", "."): imports(path) for path in SOURCES})


@pytest.mark.parametrize(
    "path", [path for path in SOURCES if relative(path).startswith("api/")], ids=relative
)
def test_the_api_has_floors(path: Path) -> None:
    module = relative(path)[:-3].replace("/", ".")
    if module != "api.__init__":
        allowed = {part(module)}.union(*API_FLOORS[floor(module) + 1 :])
        assert not {name for name in imports(path) if top(name) == "api" and part(name) not in allowed}


def floor(module: str) -> int:
    (number,) = (number for number, parts in enumerate(API_FLOORS) if part(module) in parts)
    return number


def part(module: str) -> str:
    return module.split(".")[1]


def test_no_folder_imports_itself_through_others() -> None:
    """A folder of a package, with all that it holds, counts as one; a file at a package's top as well."""
    graph: dict[str, set[str]] = {}
    for path in SOURCES:
        module = relative(path)[:-3].replace("/", ".")
        imported = {folder(name) for name in imports(path) if "." in name}
        graph.setdefault(folder(module), set()).update(imported - {folder(module)})
    check_no_cycle(graph)


def folder(module: str) -> str:
    return ".".join(module.split(".")[:2])


@pytest.mark.parametrize("room", ["prompt", "output", "grammar"])
def test_the_folders_above_the_formats_do_not_know_one_another(room: str) -> None:
    """They share how a model marks its output, `api/formats`, which knows none of them."""
    others = [f"api.{other}" for other in ("prompt", "output", "grammar") if other != room]
    for path in (ROOT / "api" / room).rglob("*.py"):
        assert not [name for name in imports(path) if name.startswith(tuple(others))]
    for path in (ROOT / "api" / "formats").rglob("*.py"):
        assert not [name for name in imports(path) if name.startswith(f"api.{room}")]


def test_no_two_files_share_a_name() -> None:
    """A file is found by its name alone. Each package may have its settings in a config.py."""
    names = Counter(path.name for path in SOURCES)
    assert {name for name, count in names.items() if count > 1} <= {"__init__.py", "config.py"}


def test_no_two_classes_share_a_name() -> None:
    bodies = (ast.parse(path.read_text(encoding="utf-8")).body for path in SOURCES)
    names = Counter(node.name for body in bodies for node in body if isinstance(node, ast.ClassDef))
    assert not [name for name, count in names.items() if count > 1]


def check_no_cycle(graph: dict[str, set[str]]) -> None:
    done: set[str] = set()

    def visit(module: str, above: tuple[str, ...]) -> None:
        assert module not in above, " -> ".join([*above, module])
        if module in done:
            return
        for imported in graph.get(module, ()):
            if imported in graph:
                visit(imported, (*above, module))
        done.add(module)

    for module in graph:
        visit(module, ())


def test_the_engine_loads_its_blas_before_mlx() -> None:
    """Imported after MLX, OpenBLAS is not used, and nothing would tell but the speed."""
    found = imports(ROOT / "engine" / "__init__.py") | imports(ROOT / "engine" / "blas.py")
    assert not {
        name for name in found if top(name) in MLX or (top(name) == "engine" and name != "engine.blas")
    }
