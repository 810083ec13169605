"""What a person may set when triggering a flow: the same as the flags of the command line."""

# Annotations are not postponed here: Prefect builds a deployment's form from them, where it knows no module.
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from voxcloud.pipeline.study import RunOptions
from voxcloud.plan.modality import SessionChoice


class FlowOptions(BaseModel):
    """The same options as the flags of ``voxcloud run``."""

    model_config = ConfigDict(extra="forbid")

    engine: Literal["study", "serial", "threads", "local", "address"] = Field(
        "study", description="Where units run; study: what the study file says."
    )
    workers: int = Field(0, ge=0, description="Number of workers; 0: what the study file says.")
    on_bad_image: Literal["study", "stop", "exclude"] = Field(
        "study", description="What to do about an image that cannot be used; study: what the study file says."
    )
    participants: list[str] = Field(
        [], description="Make maps of these participants only (labels, without sub-); empty: all."
    )
    sessions: list[str] = Field([], description="Make maps of these sessions only (labels, without ses-); empty: all.")

    def as_run_options(self) -> RunOptions:
        """Return them as the library takes them."""
        return RunOptions(
            engine=None if self.engine == "study" else self.engine,
            workers=self.workers or None,
            on_bad_image=None if self.on_bad_image == "study" else self.on_bad_image,
            sessions=SessionChoice(tuple(self.participants), tuple(self.sessions)),
        )
