"""Numbers about the cache, life and death, model files and security that tests elsewhere hold up already."""

from ..test_security import ALLOWED
from .covered import Covered

COVERED_STORAGE = (
    Covered(
        33,
        "random conversation trees: from memory, from disk, in part, at the borders of blocks",
        "every token as computed cold",
        (
            "engine/test_exactness.py::test_every_token_of_random_conversation_trees_is_exact",
            "engine/test_recurrent_exactness.py",
            "scheduler/test_disk_tier.py",
        ),
    ),
    Covered(
        34,
        "writers killed by -9 at random instants",
        "what was finished is found, nothing else",
        ("cache/disk/test_killed_writers.py",),
    ),
    Covered(
        35,
        "ENOSPC, EIO, EDQUOT, EROFS at each call, once and for ever; a hanging disk",
        "no answer differs; the tier pauses, then ends",
        ("cache/disk/test_disk_failures.py", "scheduler/test_hung_disk.py", "e2e/test_failing_disk.py"),
    ),
    Covered(
        36,
        "flipped bits, truncations, zeros, swapped files, files of another model",
        "none is served, bad files go",
        ("cache/disk/test_segment_file.py", "cache/disk/test_fingerprint.py"),
    ),
    Covered(
        37,
        "files and folders that vanish, become links, or belong to others",
        "a miss, no error",
        ("cache/disk/test_folder.py", "cache/disk/test_segment_file.py"),
    ),
    Covered(38, "a lower limit after a restart", "under it from the start", ("cache/disk/test_index.py",)),
    Covered(
        39,
        "two servers with one folder, or one port",
        "the second says so; the first goes on",
        (
            "cache/disk/test_folder.py::test_a_second_server_runs_without_a_tier_and_says_so",
            "api/command/test_serve.py::test_a_port_lost_while_loading_is_named",
        ),
    ),
    Covered(
        41,
        "the cache's folder and files: rights, links, owners",
        "the user's alone",
        ("cache/disk/test_folder.py", "cache/disk/test_segment_file.py::test_files_are_the_users_alone"),
    ),
    Covered(
        45,
        "hangs told to the watch: silence, an endless step, a legal long one, a first compile",
        "503 within 10 s, replaced within 60 s, legal steps left alone",
        ("engine/test_hang_watch.py", "engine/test_hung_process.py"),
    ),
    Covered(46, "/health while the engine does not go on", "503", ("api/test_health.py",)),
    Covered(
        48,
        "downloads: cut connections, kill -9, flipped bits, orphans",
        "go on where they broke; every hash checked",
        ("engine/loading/test_hub.py", "engine/loading/test_download.py"),
    ),
    Covered(
        49,
        "a full disk before and during a download",
        "a message with the bytes needed",
        (
            "engine/loading/test_hub.py::test_a_full_disk_is_noticed_before_the_download",
            "engine/loading/test_hub.py::test_a_disk_that_fills_up_is_told_from_a_lost_hub",
        ),
    ),
    Covered(
        50,
        "broken model folders, layers, templates",
        "refused in one line",
        (
            "engine/loading/test_loader.py::test_a_broken_folder_is_refused_in_one_line",
            "engine/test_broken_layers.py",
            "api/prompt/test_time_limit.py",
        ),
    ),
    Covered(
        51,
        "code in a model's folder",
        "never runs",
        ("engine/loading/test_loader.py::test_code_in_a_model_folder_never_runs",),
    ),
    Covered(
        52,
        "each route with each kind of key",
        "401 but for the public ones",
        ("api/test_middleware.py", "api/test_api_keys.py"),
    ),
    Covered(
        53,
        "foreign hosts, origins, media types",
        "403 or 415, no CORS header",
        ("api/test_middleware.py",),
    ),
    Covered(
        54,
        "special tokens as texts",
        "no id of them comes from content",
        ("api/prompt/test_special_tokens.py",),
    ),
    Covered(
        55,
        "queries, keys and line breaks in the log",
        "none is written as it came",
        ("api/test_middleware.py::test_the_log_holds_paths_and_no_queries",),
    ),
    Covered(
        56,
        "the product's code: eval, exec, pickle, np.load, yaml.load, a shell",
        f"none but in {len(ALLOWED)} files that the test names",
        ("test_security.py",),
    ),
)
