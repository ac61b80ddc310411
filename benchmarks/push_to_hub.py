"""`evaluate … --push REPOSITORY`: the model card, with the results as the Hub's metadata, and the converted weights."""

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

from benchmarks.converters_command import run_converters
from benchmarks.workflow.plan import DETECTION
from runs.errors import UserError
from runs.files import atomic_write

# The Hub's task and its metric, where `evaluate` measures a detector or features.
DETECTOR, FEATURES = ("object-detection", "mean_average_precision"), ("image-classification", "accuracy")
FILES = {"torchvision": "model.safetensors", "detectron2": "detectron2.pkl"}


def check_push(repository: str) -> None:
    """Raise a `UserError` if it is not OWNER/NAME or huggingface_hub is not installed, before anything is measured."""
    if importlib.util.find_spec("huggingface_hub") is None:
        raise UserError('--push needs huggingface_hub: pip install "siamese-transfer[hub]"')
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", repository):
        raise UserError(f"--push {repository}: not a name of the Hub, OWNER/NAME")


def push(card: Path, repository: str, yes: bool) -> None:
    """Write `hub/` beside a `model_card.md`, print the card and what is in the folder, and with `yes` `upload` it."""
    facts = json.loads(card.with_suffix(".json").read_text(encoding="utf-8"))
    folder = card.parent / "hub"
    folder.mkdir(exist_ok=True)
    names = [FILES[target] for target in facts["checkpoint"]["targets"]]
    for target, name in zip(facts["checkpoint"]["targets"], names, strict=True):
        run_converters(target, facts["checkpoint"]["file"], str(folder / name))
    text = _with_metadata(card.read_text(encoding="utf-8"), facts, repository)
    with atomic_write(folder / "README.md", "w") as file:
        file.write(text)
    print(text)
    for name in ("README.md", *names):
        print(f"{repository}/{name}: {(folder / name).stat().st_size:,} bytes")
    if yes:
        print(upload(folder, ["README.md", *names], repository))
    else:
        print("nothing was sent; --yes uploads these files")


def upload(folder: Path, names: list[str], repository: str) -> str:
    """Send these files of a folder in one commit; returns its address.

    The endpoint, the login and the proxies are huggingface_hub's own: `hf auth login`, `HF_TOKEN`, `HF_ENDPOINT`.

    Raises:
        UserError: the Hub refuses or cannot be reached.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        api.create_repo(repository, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repository, folder_path=folder, allow_patterns=names,
            commit_message="Weights and evaluation by siamese-transfer",
        )  # fmt: skip
    # huggingface_hub's own, and those of the library that it connects by, which its releases change.
    except Exception as error:
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        raise UserError(f"--push {repository}: {reason}; check the login, `hf auth whoami`") from error
    return commit.commit_url


def _with_metadata(text: str, facts: dict[str, Any], repository: str) -> str:
    """The text of a model card with the results, from `model_card.json`, as the Hub's `model-index`."""
    from huggingface_hub import EvalResult, ModelCardData

    results = []
    for result in facts["results"]:
        task, metric = DETECTOR if result["task"] in DETECTION else FEATURES
        data = DETECTION.get(result["task"], "ImageNet")
        data = f"{data}, generated stand-in" if facts["generated_data"] else data
        spread = f" ± {result['std']:.2f}" if result["std"] is not None else ""
        results.append(
            EvalResult(
                task_type=task,
                dataset_type=data.lower().replace(" ", "-").replace(",", ""),
                dataset_name=f"{data} ({facts['scale']} scale)",
                metric_type=metric,
                metric_value=round(result["mean"], 2),
                metric_name=f"{result['column']} (n = {result['n']}{spread})",
            )
        )
    metadata = ModelCardData(
        model_name=repository.rpartition("/")[2],
        tags=["self-supervised-learning", "siamese-transfer", facts["checkpoint"]["arch"]],
        eval_results=results or None,
    )
    return f"---\n{metadata.to_yaml()}\n---\n\n{text}"
