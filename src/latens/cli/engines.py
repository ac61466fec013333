"""Options of verbs that can run on many machines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from cyclopts import Group, Parameter
from cyclopts.validators import Number

ENGINES = Group("Many files and machines", sort_key=90)
LARGEST_SHARD = 1000
SHARDS_EACH = 10  # of a worker: with few and large shards most workers wait for the last ones


@Parameter(name="*", group=ENGINES)
@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """Options of verbs that can run as a job; see `latens.cli.jobs`."""

    engine: Annotated[
        Literal["local", "ray"] | None,
        Parameter(
            help="Work as a job, which continues after any interruption: local (processes of this machine) or ray (the "
            "cluster of RAY_ADDRESS, or this machine). Inputs may be addresses (s3://, az://, gs://) and lists (.txt, .csv); "
            "OUT is a folder or an address. `latens jobs OUT` shows how far it is."
        ),
    ] = None
    workers: Annotated[
        int | None, Parameter(validator=Number(gte=1), help="Number of workers of a job.  [default: one for each core]")
    ] = None
    shard: Annotated[
        int | None,
        Parameter(
            validator=Number(gte=1),
            help=f"Inputs that a worker takes at once.  [default: a tenth of its share, at most {LARGEST_SHARD}]",
        ),
    ] = None
    gpu_per_worker: Annotated[
        float, Parameter(validator=Number(gte=0), show_default=False, help="GPUs of a worker, such as 0.25, with ray.")
    ] = 0

    def shard_of(self, inputs: int, cores: int) -> int:
        """Inputs of a shard for a job of that many inputs."""
        share = -(-inputs // ((self.workers or cores) * SHARDS_EACH))
        return self.shard or max(1, min(share, LARGEST_SHARD))
