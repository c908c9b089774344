"""A small drawn shop, a language model made on the spot, and runs of the whole road over them."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from catalograph.cli import main


@dataclass(frozen=True)
class Run:
    """One call of the command line and what it left."""

    folder: Path
    code: int
    out: str
    err: str


class World:
    """A folder of data, the configuration that runs on it, and ways to run it.

    Tests reach this module through fixtures alone, so what they need to know is an attribute here.
    """

    items, people, listed = 60, 80, 20
    notice = "A small shop that was drawn, and no evidence about yours."

    def __init__(self, root: Path, language_model: Path) -> None:
        self.root, self.data, self.language_model = root, root / "shop", language_model

    def config(self, **changes: Any) -> dict[str, Any]:
        """The configuration as plain values; `changes` replace whole sections, None among them."""
        fake = {"engine": "fake", "buckets": 4}
        training = {"epochs": 3, "batch_size": 256, "learning_rate": 0.01, "metric": "ndcg@10"}
        params = {"embedding_size": 4, "layers": 1, "neighbours": 4}
        lirdrec = {"model": "lirdrec", "params": params, "train": training}
        sources = ["lirdrec", "item_knn", "popularity"]
        return {
            "data": {
                "root": str(self.data),
                "catalog": "catalog.parquet",
                "pictures": "pictures.zip",
                "interactions": "interactions.parquet",
                "catalog_columns": {"item_id": "product", "title": "name", "picture": "photo"},
                "interaction_columns": {"user": "person", "item": "product", "timestamp": "time"},
                "split": {"method": "leave_last_out"},
            },
            "caption": {**fake, "prompt": "Say what you see.", "batch_size": 16},
            "features": {
                "title": {"template": "{title}", "embed": fake},
                "caption": {"template": "{caption}", "embed": fake},
            },
            "retrievers": {
                "lirdrec": {**lirdrec, "features": ["title", "caption"]},
                "titles_only": {**lirdrec, "features": ["title"]},
                "item_knn": {"model": "item_knn"},
                "popularity": {"model": "popularity"},
            },
            "candidates": {"k": self.listed, "order_by": "lirdrec", "sources": sources},
            "rerank": {
                "model": str(self.language_model),
                "prompt": "compact",
                "item": "{title}, {caption}",
                "history": 3,
                "item_tokens": 12,
                "finetune": {
                    "folds": 2,
                    "max_lists": 16,
                    "validation_lists": 12,
                    "epochs": 1,
                    "batch_size": 4,
                    "answer_length": 2,
                    "lora": {"rank": 2, "alpha": 4.0},
                },
            },
            "evaluate": {"ks": [10, 20], "baselines": ["popularity", "titles_only"], "bootstrap": 200},
            "report": {"title": "A small shop", "notice": self.notice, "examples": 4},
            "threads": 1,
            **changes,
        }  # fmt: skip

    def again(self, name: str, *arguments: str, verb: str = "run", folder: Path | None = None) -> Run:
        """Runs a verb on a configuration that was written before."""
        folder = folder or self.root / f"run-{name}"
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main([verb, "-c", str(self.root / f"{name}.yaml"), "--run-dir", str(folder), *arguments])
        return Run(folder, code, out.getvalue(), err.getvalue())

    def run(self, name: str, *arguments: str, verb: str = "run", **changes: Any) -> Run:
        """Runs a verb in this process on the configuration with `changes`, in a folder called `name`."""
        path = self.root / f"{name}.yaml"
        path.write_text(yaml.safe_dump(self.config(**changes), sort_keys=False))
        return self.again(name, *arguments, verb=verb)

    def start(self, name: str, folder: Path) -> subprocess.Popen[str]:
        """Starts `catalograph run --json` in a process of its own on a configuration written before."""
        config = str(self.root / f"{name}.yaml")
        command = [
            sys.executable,
            "-m",
            "catalograph",
            "run",
            "-c",
            config,
            "--run-dir",
            str(folder),
            "--json",
        ]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=self.environment())

    @staticmethod
    def environment() -> dict[str, str]:
        """This process's environment for a child: the same packages, one thread, no word to a model hub."""
        packages = os.pathsep.join(path for path in sys.path if path)
        return os.environ | {"PYTHONPATH": packages, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}

    @staticmethod
    def hash_of(folder: Path) -> str:
        """What `catalograph hash` prints."""
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            code = main(["hash", "--run-dir", str(folder)])
        if code:
            raise AssertionError(f"catalograph hash exits {code}")
        return out.getvalue().strip()


@pytest.fixture(scope="session")
def shop_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from catalograph.demo.shop import open_shop, write_shop

    folder = tmp_path_factory.mktemp("shop") / "shop"
    write_shop(open_shop(World.items, World.people, dial=1, seed=3), folder, picture_size=24)
    return folder


@pytest.fixture(scope="session")
def language_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a Llama of random weights and a byte-level tokenizer."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=330,
        special_tokens=["<pad>", "<bos>", "<eos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(["a red striped mug thing classic rug lamp chose rank best"] * 20, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>"
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(tokenizer),
                hidden_size=16,
                intermediate_size=32,
                num_hidden_layers=1,
                num_attention_heads=2,
                num_key_value_heads=2,
                max_position_embeddings=1024,
                pad_token_id=0,
                bos_token_id=1,
                eos_token_id=2,
            )
        )
    folder = tmp_path_factory.mktemp("model") / "tiny"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def make_world(shop_folder: Path, language_model: Path, one_thread: None) -> Callable[[Path], World]:
    """Makes a world in an empty folder, with a copy of the shop that a test may spoil."""

    def make(root: Path) -> World:
        made = World(root, language_model)
        shutil.copytree(shop_folder, made.data)
        return made

    return make


@pytest.fixture
def world(tmp_path: Path, make_world: Callable[[Path], World]) -> World:
    """A world of a test's own."""
    return make_world(tmp_path)
