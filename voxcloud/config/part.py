"""What every part of the study file has in common."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Part(BaseModel):
    """A frozen part of the study file that refuses unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)
