from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalograph.config import RunConfig, changed_keys, config_schema
from catalograph.config_file import load_config, override_config, parse_value
from catalograph.config_keys import flatten, redact, results_of
from extract.errors import ConfigError, UnsafeInput

GOOD = """\
data:
  catalog: items.csv
  interactions: clicks.csv
features:
  words:
    template: "{title}. {text}"
    embed: {engine: fake, model: fake}
retrievers:
  graph: {model: lirdrec, features: [words]}
  linear: {model: ease, params: {l2: 300}}
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "run.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def problems_of(folder: Path, text: str, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_config(write(folder, text), overrides)
    assert caught.value.code == "C001" and caught.value.exit_code == 2
    return [line.strip() for line in caught.value.what.splitlines()[1:]]


def test_a_minimal_file_is_enough(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, GOOD))
    assert config.retrievers["graph"].features == ("words",)
    assert config.caption is None and config.rerank is None
    assert config.candidates.order_by == "best"


def test_data_root_in_the_file_is_relative_to_the_file(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, GOOD.replace("data:\n", "data:\n  root: shop\n")))
    assert config.data.catalog_path == tmp_path / "shop" / "items.csv"
    assert config.data.interactions_path == tmp_path / "shop" / "clicks.csv"
    assert config.data.pictures_path is None


def test_without_a_root_paths_start_at_the_file(tmp_path: Path) -> None:
    assert load_config(write(tmp_path, GOOD)).data.catalog_path == tmp_path / "items.csv"


def test_data_root_from_set_is_relative_to_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "configs").mkdir()
    monkeypatch.chdir(tmp_path)
    config = load_config(write(tmp_path / "configs", GOOD), ["data.root=elsewhere"])
    assert config.data.root == tmp_path / "elsewhere"


@pytest.mark.parametrize("text", ["1e-4", "1E-4", "1.0e-4", "0.0001", ".1e-3"])
def test_scientific_notation_is_a_number(tmp_path: Path, text: str) -> None:
    config = load_config(write(tmp_path, GOOD), [f"retrievers.linear.params.l2={text}"])
    value = config.retrievers["linear"].params["l2"]
    assert isinstance(value, float) and value == pytest.approx(1e-4)
    in_file = load_config(write(tmp_path, GOOD.replace("l2: 300", f"l2: {text}")))
    assert in_file.retrievers["linear"].params["l2"] == value


@pytest.mark.parametrize(
    ("text", "value"), [("5", 5), ("-3", -3), ("1.2.3", "1.2.3"), ("e4", "e4"), ("true", True)]
)
def test_other_scalars_keep_their_type(text: str, value: object) -> None:
    parsed = parse_value(text)
    assert parsed == value and type(parsed) is type(value)


def test_set_opens_sections_that_were_not_there(tmp_path: Path) -> None:
    config = load_config(
        write(tmp_path, GOOD), ["candidates.k=7", "retrievers.pop.model=popularity", "caption.engine=fake"]
    )
    assert config.candidates.k == 7 and config.retrievers["pop"].model == "popularity"
    assert config.caption is not None and config.caption.engine == "fake"


def test_set_changes_one_of_two_sections_that_share_an_alias(tmp_path: Path) -> None:
    text = GOOD + "  one: {model: item_knn, params: &p {shrink: 1}}\n  two: {model: item_knn, params: *p}\n"
    config = load_config(write(tmp_path, text), ["retrievers.one.params.shrink=5"])
    assert config.retrievers["one"].params == {"shrink": 5}
    assert config.retrievers["two"].params == {"shrink": 1}


def test_the_last_set_wins(tmp_path: Path) -> None:
    assert load_config(write(tmp_path, GOOD), ["seed=1", "seed=2"]).seed == 2


def test_all_problems_come_at_once_with_lines(tmp_path: Path) -> None:
    text = (
        GOOD.replace("features: [words]", "features: [wrds]")
        + "candidates:\n  k: 0\n  order_bye: graph\nsede: 3\n"
    )
    problems = problems_of(tmp_path, text)
    assert problems == [
        "candidates.k (line 12): input should be greater than or equal to 1, got 0",
        "candidates.order_bye (line 13): unknown key; did you mean candidates.order_by?",
        "sede (line 14): unknown key; did you mean seed?",
        "retrievers.graph.features.0 (line 9): unknown feature wrds; did you mean words?",
    ]


def test_unknown_keys_are_found_below_named_sections_and_optional_ones(tmp_path: Path) -> None:
    problems = problems_of(
        tmp_path,
        GOOD + "caption: {engine: fake, modle: x}\n",
        "features.words.tempalte=x",
        "retrievers.graph.modl=x",
    )
    assert "caption.modle (line 11): unknown key; did you mean caption.model?" in problems
    assert "features.words.tempalte (--set): unknown key; did you mean features.words.template?" in problems
    assert "retrievers.graph.modl (--set): unknown key; did you mean retrievers.graph.model?" in problems


def test_a_misspelt_required_key_is_one_problem(tmp_path: Path) -> None:
    problems = problems_of(tmp_path, GOOD.replace("catalog:", "catalogue:"))
    assert problems == ["data.catalogue (line 2): unknown key; did you mean data.catalog?"]


def test_a_key_given_twice_is_a_problem(tmp_path: Path) -> None:
    assert problems_of(tmp_path, GOOD + "seed: 1\nseed: 2\n") == [
        "seed (line 12): given twice, first on line 11"
    ]


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        (
            "candidates.order_by=grph",
            "candidates.order_by (--set): unknown retriever grph; did you mean graph?",
        ),
        (
            "candidates.sources=[graph, ease]",
            "candidates.sources.1 (--set): unknown retriever ease; known: graph, linear",
        ),
        (
            "features.words.template={caption}",
            "features.words.template (--set): uses {caption}, but captions are off (caption: null)",
        ),
        (
            "features.words.template={titel}",
            "features.words.template (--set): unknown slot titel; did you mean title?",
        ),
        (
            "data.unknown_items=eror",
            "data.unknown_items (--set): unknown choice eror; did you mean error?",
        ),
        (
            "evaluate.baselines=[grap]",
            "evaluate.baselines.0 (--set): unknown retriever grap; did you mean graph?",
        ),
        ("seed.x=1", "seed (--set): input should be a valid integer"),
        ("candidates", "candidates: --set needs key.path=value"),
    ],
)
def test_names_that_point_nowhere_are_told(tmp_path: Path, override: str, expected: str) -> None:
    override = override if "{" not in override else override.replace("={", '="{') + '"'
    assert expected in problems_of(tmp_path, GOOD, override)


@pytest.mark.parametrize(
    "text", ["retrievers: 3\n", "candidates: {order_by: [1], sources: [{a: 1}]}\n", "features: [1]\n"]
)
def test_values_of_the_wrong_type_are_problems_and_not_crashes(tmp_path: Path, text: str) -> None:
    head = "data: {catalog: a, interactions: b}\n"
    assert problems_of(tmp_path, head + text)


def test_the_order_must_be_among_the_sources(tmp_path: Path) -> None:
    problems = problems_of(tmp_path, GOOD, "candidates.order_by=graph", "candidates.sources=[linear]")
    assert problems == ["candidates.order_by (--set): graph must be among candidates.sources"]


def test_settings_of_models_are_checked_with_the_rest(tmp_path: Path) -> None:
    problems = problems_of(
        tmp_path,
        GOOD + "sede: 3\n",
        "retrievers.linear.params={l3: 5, l2: -1}",
        "retrievers.graph.params={layer: 2, neighbours: many}",
        "retrievers.third.model=lightgnc",
        "retrievers.graph.train.epoks=3",
    )
    assert problems == [
        "retrievers.graph.train.epoks (--set): unknown key; did you mean retrievers.graph.train.epochs?",
        "sede (line 11): unknown key; did you mean seed?",
        "retrievers.graph.params.neighbours (--set): input should be a valid integer, unable to parse string "
        "as an integer, got 'many'",
        "retrievers.graph.params.layer (--set): unknown key; did you mean retrievers.graph.params.layers?",
        "retrievers.linear.params.l2 (--set): input should be greater than 0, got -1",
        "retrievers.linear.params.l3 (--set): unknown key; known here: l2, denoise, user_power",
        "retrievers.third.model (--set): unknown model lightgnc; did you mean lightgcn?",
    ]


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        (
            "retrievers.graph.features=[]",
            "retrievers.graph.features (--set): lirdrec needs at least one feature",
        ),
        (
            "retrievers.graph.params.knn_weights={word: 1}",
            "retrievers.graph.params.knn_weights (--set): must name each of this retriever's features: words",
        ),
        (
            "rerank={model: m, prompt: recomend}",
            "rerank.prompt (--set): unknown layout recomend; did you mean recommend?",
        ),
        ("rerank={}", "rerank.model (--set): the form text reads words: name a language model"),
        ("rerank={form: hybrid}", "rerank.model (--set): the form hybrid reads words: name a language model"),
        (
            "rerank={form: token, token: {features: [wods]}}",
            "rerank.token.features.0 (--set): unknown feature wods; did you mean words?",
        ),
        (
            "rerank={form: token, token: {width: 20, heads: 4}}",
            "rerank.token.heads (--set): width 20 must be an even multiple of heads 4",
        ),
        ("caption={engine: fake, prompt: prodct}", "caption.prompt (--set): unknown caption prompt `prodct`"),
        (
            "caption={engine: fake, keys: [genre]}",
            "caption.keys (--set): the instruction `product` asks for no JSON, so it has no keys",
        ),
        (
            "caption={engine: fake, item_text: '{titel}'}",
            "caption.item_text (--set): unknown slot titel; did you mean title?",
        ),
        (
            "caption={engine: fake, item_text: '{caption}'}",
            "caption.item_text (--set): unknown slot caption; known: title, text",
        ),
    ],
)
def test_choices_that_other_packages_own_are_checked(tmp_path: Path, override: str, expected: str) -> None:
    assert problems_of(tmp_path, GOOD, override) == [expected]


def test_more_candidates_than_letters_are_refused_with_a_reranker_only(tmp_path: Path) -> None:
    assert load_config(write(tmp_path, GOOD), ["candidates.k=53"]).candidates.k == 53
    assert problems_of(tmp_path, GOOD, "candidates.k=53", "rerank.model=m") == [
        "candidates.k (--set): a reranker of texts takes at most 52 candidates, one letter each, got 53"
    ]
    loaded = load_config(write(tmp_path, GOOD), ["candidates.k=100", "rerank={form: token}"])
    assert loaded.candidates.k == 100
    assert load_config(write(tmp_path, GOOD), ["candidates.k=52", "rerank.model=m"]).candidates.k == 52


def test_captions_switched_on_make_the_slot_valid(tmp_path: Path) -> None:
    config = load_config(
        write(tmp_path, GOOD),
        ["features.words.template='{caption}'", "caption.engine=fake", "caption.model=fake"],
    )
    assert config.features["words"].template == "{caption}"


def test_cross_checks_hold_for_configs_built_in_python(tmp_path: Path) -> None:
    values = load_config(write(tmp_path, GOOD)).model_dump()
    values["candidates"]["order_by"] = "nobody"
    with pytest.raises(ValueError, match=r"candidates\.order_by: unknown retriever nobody"):
        RunConfig.model_validate(values)


def test_override_config_keeps_the_rest(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, GOOD))
    assert override_config(config, ["seed=9"]) == config.model_copy(update={"seed": 9})


def test_text_that_is_not_yaml_names_the_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(write(tmp_path, "data:\n  catalog: [a\nseed: 1\n"))
    assert caught.value.code == "C002" and "line 3" in caught.value.where


def test_python_tags_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(write(tmp_path, "seed: !!python/object/apply:os.getpid []\n"))
    assert caught.value.code == "C002"


def test_a_file_that_is_a_list_is_refused(tmp_path: Path) -> None:
    assert problems_of(tmp_path, "- a\n- b\n")[0] == "the file: must be a mapping of keys, got list"


def test_a_missing_file_is_told() -> None:
    with pytest.raises(UnsafeInput) as caught:
        load_config(Path("nowhere/run.yaml"))
    assert caught.value.exit_code == 4


def test_the_yaml_of_a_config_reads_back_as_itself(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, GOOD), ["caption.engine=fake", "caption.model=fake"])
    assert load_config(write(tmp_path, config.to_yaml())) == config


def test_secrets_are_redacted_and_budgets_are_not() -> None:
    values = {
        "api_key": "abc",
        "hub_token": "abc",
        "max_new_tokens": 64,
        "urls": ["https://me:pw@host/x"],
        "token": "",
    }
    assert redact(values) == {
        "api_key": "***",
        "hub_token": "***",
        "max_new_tokens": 64,
        "urls": ["https://***@host/x"],
        "token": "",
    }


def test_the_number_of_decoders_is_no_result() -> None:
    config = {
        "caption": {"decoders": 2, "model": "m"},
        "features": {"f": {"pictures": {"decoders": 2, "model": "p"}}},
    }
    assert results_of(config) == {"caption.model": "m", "features.f.pictures.model": "p"}


def test_keys_that_do_not_affect_results_may_differ(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    config = load_config(path)
    free = ["run_dir=x", "data.root=/y", "report.examples=1", "max_bad=0.5", "threads=3"]
    assert changed_keys(config.redacted(), load_config(path, free)) == {}
    assert load_config(path, free).fingerprint() == config.fingerprint()


@pytest.mark.parametrize(
    ("override", "key", "old", "new"),
    [
        ("seed=1", "seed", 0, 1),
        ("device=cuda", "device", "auto", "cuda"),
        ("candidates.k=9", "candidates.k", 50, 9),
        ("retrievers.linear.params.l2=5", "retrievers.linear.params.l2", 300, 5),
        ("evaluate.ks=[5]", "evaluate.ks", [10, 20], [5]),
    ],
)
def test_keys_that_affect_results_are_named_with_both_values(
    tmp_path: Path, override: str, key: str, old: object, new: object
) -> None:
    path = write(tmp_path, GOOD)
    changed = load_config(path, [override])
    assert changed_keys(load_config(path).redacted(), changed) == {key: (old, new)}
    assert load_config(path).fingerprint() != changed.fingerprint()


def test_a_stored_config_without_a_newer_key_counts_with_its_default(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, GOOD))
    stored = config.redacted()
    del stored["evaluate"]
    assert changed_keys(stored, config) == {}


def test_configs_are_frozen(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_config(write(tmp_path, GOOD)).seed = 3  # type: ignore[misc]


def test_the_schema_describes_every_section() -> None:
    schema = config_schema()
    assert schema["additionalProperties"] is False
    assert set(schema["properties"]) == set(RunConfig.model_fields)
    assert schema["properties"]["rerank"]["description"].startswith("The reranker; null:")


@given(
    st.recursive(
        st.integers() | st.text(max_size=3), lambda inner: st.dictionaries(st.sampled_from("abc"), inner)
    )
)
def test_flatten_keeps_every_leaf(value: object) -> None:
    def leaves(item: object) -> int:
        return sum(map(leaves, item.values())) if isinstance(item, dict) and item else 1

    assert len(flatten({"top": value})) == leaves(value)


def test_results_leave_out_whole_sections() -> None:
    assert results_of({"report": {"title": "x"}, "reporter": 1, "data": {"root": "/", "catalog": "c"}}) == {
        "reporter": 1,
        "data.catalog": "c",
    }
