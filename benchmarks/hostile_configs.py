"""Hostile configurations and overrides, and paths that name what is no file."""

from __future__ import annotations

from collections.abc import Iterator

import yaml
from hostile_shop import CONFIG, Case, Spoil, configure, no_code_ran


def config_text(text: str | bytes) -> Spoil:
    data = text if isinstance(text, bytes) else text.encode()
    return lambda folder: (folder / "run.yaml").write_bytes(data) and None  # type: ignore[func-returns-value]


def config_cases() -> Iterator[Case]:
    """Configurations, overrides, and the paths they name."""
    yield from yaml_cases()
    yield from path_cases()
    yield from set_cases()


def yaml_cases() -> Iterator[Case]:
    """Text that is no YAML, bombs, code, values of every wrong kind."""
    bomb = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join([f'*{chr(97 + n)}'] * 9)}]\n" for n in range(9)
    )
    good = yaml.safe_dump(CONFIG)
    for name, text, says in (
        ("aliases that stand for a billion", bomb, "aliases written out"),
        ("an alias of itself", "data: &a [*a]\n", "nested too deeply"),
        ("100,000 open brackets", "data: " + "[" * 100_000, "nested too deeply"),
        (
            "a Python object",
            "data: !!python/object/apply:os.system ['touch /tmp/catalograph-pickle-ran']\n",
            "could not determine a constructor",
        ),
        ("a tab", "data:\n\tcatalog: x\n", "not YAML"),
        ("a key twice", good + "seed: 1\nseed: 2\n", "given twice"),
        ("a control character", "seed: \x1a\n", "not YAML"),
        ("a date that is none", good + "device: 2024-02-30\n", "not YAML"),
        ("a list", "- 1\n", "must be a mapping"),
        ("nothing", "", "is required"),
        ("a number", "7\n", "must be a mapping"),
        ("a misspelt key", good + "sed: 1\n", "did you mean seed?"),
        (
            "remote code",
            good.replace("engine: fake", "engine: fake\n  trust_remote_code: true", 1),
            "unknown key",
        ),
        ("a number of 5,000 digits", good + f"seed: {'9' * 5000}\n", "error[C00"),
        ("a seed of infinity", good + "seed: .inf\n", "seed"),
        ("a limit of NaN", good.replace("max_bad: 0.6", "max_bad: .nan"), "max_bad"),
        (
            "a memory of infinity",
            good.replace("catalog: items.csv", "catalog: items.csv\n  memory_gib: .inf", 1),
            "memory_gib",
        ),
    ):
        yield Case("YAML", name, "validate", config_text(text), 2, says, check=no_code_ran)
    for name, data, says in (
        ("bad UTF-8", b"seed: \xff\n", "cannot be read"),
        ("a zero byte in a name", b'data: {catalog: "a\\0b"}\n', "error[U103]"),
    ):
        yield Case("YAML", name, "validate", config_text(data), 4, says)


def path_cases() -> Iterator[Case]:
    for name, change in {
        "a folder as catalogue": {"catalog": "pictures"},
        "a device as catalogue": {"catalog": "/dev/zero"},
        "a name of 5,000 letters": {"catalog": "x" * 5000},
        "a name with a zero byte": {"catalog": "a\0.csv"},
        "an address as catalogue": {"catalog": "http://127.0.0.1:9/x.csv"},
        "no such pictures": {"pictures": "gone"},
        "a zero byte in the interactions": {"interactions": "a\0.csv"},
        "an unknown kind": {"catalog": "run.yaml"},
    }.items():
        yield Case(
            "paths",
            name,
            "validate",
            lambda folder, change=change: configure(folder, data=change),
            4,
            "error[U103]",
        )


def set_cases() -> Iterator[Case]:
    for pair, says in (
        ("data", "key.path=value"),
        ("=3", "key.path=value"),
        ("max_bad.x=3", "is a value, not a section"),
        ("seed=[", "not YAML"),
        ("seed=2024-02-30", "not YAML"),
        ("sed=1", "did you mean seed?"),
        ("seed=-1", "seed"),
    ):
        yield Case("--set", pair, "validate", lambda folder: None, 2, says, more=("--set", pair))
