"""Registration programs in a process of their own: arrays go there through a folder, matrices and fields come back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from voxcloud.errors import RegistrationError

TIMEOUT_S = 1800.0
ONE_THREAD = {
    **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
    "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": "1",
}


def run_greedy(request: dict[str, Any], images: dict[str, npt.NDArray[Any]]) -> dict[str, Any]:
    """Carry a registration out (``greedy_process``) and return its answer.

    Raises
    ------
    RegistrationError
        If the program failed or took too long; its last words are in the message.
    """
    return run_child("voxcloud.space.greedy_process", "picsl-greedy", request, images)[0]


def run_child(
    module: str, program: str, request: dict[str, Any], images: dict[str, npt.NDArray[Any]]
) -> tuple[dict[str, Any], dict[str, npt.NDArray[np.float32]]]:
    """Run a module with a folder of its own and return its answer, and the displacements that the answer names.

    Parameters
    ----------
    module
        What runs: it reads ``request.json`` and the images, and writes ``answer.json``, as ``greedy_process`` does.
    program
        Its name in messages.
    request
        JSON.
    images
        Arrays by name.

    Raises
    ------
    RegistrationError
        If the program failed or took too long; its last words are in the message.
    """
    with tempfile.TemporaryDirectory(prefix="voxcloud-") as name:
        folder = Path(name)
        (folder / "request.json").write_text(json.dumps(request), encoding="utf-8")
        for key, array in images.items():
            np.save(folder / f"{key}.npy", array, allow_pickle=False)
        command = [sys.executable, "-m", module, name]
        with (folder / "words.txt").open("wb") as words:
            # Its input stays open as long as this process lives, which tells the child when it does not.
            child = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=words,
                env={**os.environ, **ONE_THREAD},
            )
            try:
                child.wait(TIMEOUT_S)
            except subprocess.TimeoutExpired:
                raise RegistrationError(
                    f"registration: expected an end within {TIMEOUT_S:g} s, found none. Is the machine overloaded? Run "
                    "it again."
                ) from None
            finally:
                _end(child)
        place = folder / "answer.json"
        if child.returncode != 0 or not place.exists():
            lines = (folder / "words.txt").read_text(encoding="utf-8", errors="replace").strip().splitlines()
            raise RegistrationError(
                f"registration: expected {program} to end well, found exit status {child.returncode}: "
                f"{lines[-1][-600:] if lines else 'no message'}. Run it again; if it fails again, look at both images."
            )
        answer: dict[str, Any] = json.loads(place.read_text(encoding="utf-8"))
        warps = {key: np.load(folder / f"{key}.npy", allow_pickle=False) for key in answer.get("warps", ())}
        return answer, warps


def _end(child: subprocess.Popen[bytes]) -> None:
    """End a child that still runs, after a timeout or an interruption, and close its input."""
    if child.poll() is None:
        child.kill()
        child.wait()
    if child.stdin is not None:
        child.stdin.close()
