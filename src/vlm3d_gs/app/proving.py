"""`vlm3d-gs verify`: writes what an asset says of its making, and checks it by rendering and judging again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlm3d_gs import __version__
from vlm3d_gs.assembly.judges import build_judge, weights_hash
from vlm3d_gs.core.errors import InputFileError, ModelError, PromptError
from vlm3d_gs.core.gaussians import Gaussians
from vlm3d_gs.evaluate.judging import ask_about, show_scene
from vlm3d_gs.evaluate.runs import judge_splat
from vlm3d_gs.formats.convert import read_splat
from vlm3d_gs.formats.gltf.extras import read_extras, write_extras
from vlm3d_gs.models import family_entry, locate
from vlm3d_gs.runs.proof import PROOF, VERSION, file_hash, read_proof, write_proof
from vlm3d_gs.runs.record import SPLAT, find_splat

CHECKER = "checker"
SLACK = 0.25
"""Log-odds by which a judge may differ on another machine."""


@dataclass(frozen=True, slots=True)
class Check:
    """One statement of a proof, and whether it holds here."""

    what: str
    """What was checked."""
    holds: bool | None
    """None where it could not be checked on this machine."""
    found: str
    """What was found."""


def prove(run: Path) -> dict[str, Any]:
    """Judge a run's scene, and write its proof into scene.json and into its .glb, if it has one.

    Args:
        run: a run's folder.

    Returns:
        The proof.

    Raises:
        InputFileError: the folder is not that of a finished run.
        WriteError: the file system refuses.
    """
    splat, record = find_splat(run)
    if record is None:
        raise InputFileError(
            f"{run} is a file. Only the run that made a splat knows how; name its folder."
        )
    config = record.config.get("config", record.config)
    config = config if isinstance(config, dict) else {}
    train = config.get("train")
    scene = read_splat(splat)
    proof = {
        "version": VERSION,
        "made_by": f"vlm3d-gs {__version__}",
        "commit": record.config.get("commit"),
        "prompt": record.prompt,
        "preset": config.get("preset"),
        "seed": train.get("seed") if isinstance(train, dict) else None,
        "models": _models(config),
        "splat": {"file": splat.name, "sha256": file_hash(splat), "gaussians": len(scene)},
        "verdicts": judge_scene(scene, splat, record.prompt),
    }
    write_proof(run, proof)
    for path in sorted(run.glob("scene.glb")):
        write_extras(path, PROOF, proof)
    return proof


def _models(config: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the models of a run's settings: role, name, id, licence, and the hash of the weights that are here."""
    found = []
    for role in ("prior", "detail", "critic"):
        settings = config.get(role)
        if not isinstance(settings, dict) or not settings.get("enabled", True):
            continue
        family, model = str(settings.get("family")), settings.get("model")
        if family == "server":
            server = settings.get("server")
            named = server.get("model") if isinstance(server, dict) else None
            found.append(
                {"role": role, "name": family, "id": named, "licence": None, "weights": None}
            )
            continue
        try:
            entry = family_entry("critic" if role == "critic" else "prior", family)
        except ModelError:
            continue
        found.append(
            {
                "role": role,
                "name": entry.name,
                "id": model or (entry.ids[0] if entry.ids else "embedded"),
                "licence": None if model else entry.licence,
                "weights": _weights(entry.name, model),
            }
        )
    return found


def _weights(name: str, model: str | None) -> str | None:
    """Return the hash of a model's weights; None where they are not on this machine."""
    try:
        return weights_hash(locate(model, name, offline=True))
    except ModelError:
        return None


def judge_scene(scene: Gaussians, splat: Path, prompt: str) -> list[dict[str, Any]]:
    """Return the verdicts of the checker and of the embedded judge; of neither on words that they do not know."""
    try:
        report = judge_splat(splat.name, prompt, None, splat).report
    except PromptError:
        return []
    verdicts: list[dict[str, Any]] = [
        {
            "judge": CHECKER,
            "said": {"content_right": report.content_right, "clean": report.clean},
        }
    ]
    judge = build_judge("mini")
    answers = ask_about(judge, prompt, [show_scene(scene)])[0]
    if answers is not None:
        rounded = {name: round(value, 3) for name, value in answers.items()}
        verdicts.append({"judge": judge.name, "identity": judge.identity, "said": rounded})
    return verdicts


def find_proof(target: Path) -> tuple[Path, dict[str, Any]]:
    """Return the splat that a target stands for, and its proof.

    Raises:
        InputFileError: it has none.
    """
    if target.is_dir():
        splat, proof = target / SPLAT, read_proof(target)
    else:
        splat, proof = target, read_extras(target, PROOF)
    if proof is None:
        raise InputFileError(
            f"{target} carries no proof of its making. Give it one with `vlm3d-gs verify RUN --write`."
        )
    return splat, proof


def verify(target: Path) -> list[Check]:
    """Check everything that a proof says and that can be checked here.

    Args:
        target: a run's folder, or a .glb.

    Raises:
        InputFileError: there is no proof, or no splat.
    """
    splat, proof = find_proof(target)
    scene = read_splat(splat)
    checks = [_check_splat(splat, scene, proof, whole=target.is_dir())]
    checks += [_check_model(model) for model in proof.get("models", []) if isinstance(model, dict)]

    prompt = str(proof.get("prompt", ""))
    again = {one["judge"]: one for one in judge_scene(scene, splat, prompt)}
    for said in proof.get("verdicts", []):
        if isinstance(said, dict):
            checks.append(_check_verdict(said, again.get(str(said.get("judge")))))
    return checks


def _check_splat(splat: Path, scene: Gaussians, proof: dict[str, Any], *, whole: bool) -> Check:
    """A .glb holds the scene in other bytes than the file that was hashed: there the number of Gaussians must do."""
    stated = proof.get("splat")
    stated = stated if isinstance(stated, dict) else {}
    if whole:
        found = file_hash(splat)
        return Check(
            f"{splat.name} is unchanged", found == stated.get("sha256"), f"SHA-256 {found[:16]}"
        )
    count = len(scene)
    return Check("number of Gaussians", count == stated.get("gaussians"), str(count))


def _check_model(model: dict[str, Any]) -> Check:
    what = f"weights of {model.get('name')} ({model.get('role')})"
    stated = model.get("weights")
    if stated is None:
        return Check(what, None, "not stated")
    own = str(model.get("id")) == "embedded"
    try:
        found = _weights(str(model.get("name")), None if own else str(model.get("id")))
    except InputFileError:
        found = None
    if found is None:
        return Check(what, None, "not on this machine")
    return Check(what, found == stated, f"SHA-256 {found[:16]}")


def _check_verdict(said: dict[str, Any], again: dict[str, Any] | None) -> Check:
    what = f"verdict of {said.get('judge')}"
    if again is None:
        return Check(what, None, "this judge is not here")
    stated, found = said.get("said"), again["said"]
    if not isinstance(stated, dict) or set(stated) != set(found):
        return Check(what, False, str(found))
    return Check(what, all(_alike(stated[name], found[name]) for name in found), str(found))


def _alike(one: object, other: object) -> bool:
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, int | float) and isinstance(other, int | float):
        return abs(one - other) <= SLACK
    return one == other
