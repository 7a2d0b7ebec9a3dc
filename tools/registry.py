"""The data sets of data/registry.yaml: their sources, files, addresses and checksums."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lib import paths
from lib.config import read_yaml

REGISTRY = paths.ROOT / "data" / "registry.yaml"


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


Url = Annotated[str, Field(pattern=r"^https?://\S+$")]
Checksum = Annotated[str, Field(pattern=r"^(md5:[0-9a-f]{32}|sha256:[0-9a-f]{64})$")]
Name = Annotated[str, Field(pattern=r"^\w[\w.-]*$")]


class File(_Section):
    """A file of a source; its addresses, tried in order, each with a checksum or None."""

    name: Name
    role: Literal["images", "metadata", "ground_truth", "groupings", "masks"]
    about_bytes: Annotated[int, Field(ge=1)]
    urls: Annotated[dict[Url, Checksum | None], Field(min_length=1)]
    optional: bool = False


class Source(_Section):
    """A server that has all files of a data set."""

    name: Name
    page: Url
    listing: Url | None = None
    files: Annotated[list[File], Field(min_length=1)]


class Dataset(_Section):
    """A data set and its sources, tried in order."""

    title: str
    sources: Annotated[list[Source], Field(min_length=1)]
    #: Where lesion ids are missing, each image counts as a lesion of its own.
    image_is_lesion: bool = False
    #: Images whose rows are dropped.
    left_out: list[str] = []

    @property
    def stems(self) -> set[str]:
        """Names of all files without suffix, in lower case."""
        return {Path(file.name).stem.casefold() for source in self.sources for file in source.files}


class _Registry(_Section):
    datasets: Annotated[dict[Name, Dataset], Field(min_length=1)]


def load_registry(file: Path | None = None) -> dict[str, Dataset]:
    """Read the data sets of `data/registry.yaml`; an error names the file and the key."""
    file = file or REGISTRY
    try:
        return _Registry.model_validate(read_yaml(file, paths.relative(file))).datasets
    except ValidationError as error:
        faults = [f"  {'.'.join(map(str, f['loc']))}: {f['msg']}" for f in error.errors()]
        raise ValueError("\n".join([f"{paths.relative(file)}: not valid", *faults])) from None
