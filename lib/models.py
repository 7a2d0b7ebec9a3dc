"""The models of a run: a row of every table each, and where notebooks 03 and 04 leave them."""

from dataclasses import dataclass

from lib.config import TRANSFER_ROWS, TRIVIAL, Config, Handcrafted, Network, Transfer
from lib.stages import STAGES


@dataclass(frozen=True)
class Model:
    """A model of a run.

    Attributes
    ----------
    name, title : str
        As in every table.
    settings : Handcrafted, Network or Transfer
        Its item in the configuration; None for what is predicted without an image.
    network : str
        The name of its network in `folder`, without `.keras`; None for other classifiers.
    """

    name: str
    title: str
    settings: Handcrafted | Network | Transfer | None = None
    network: str | None = None

    @property
    def folder(self) -> str:
        """The folder below runs/<run> that holds its predictions."""
        return self.settings.name

    @property
    def manifest(self) -> str:
        """The name of its manifest in `folder`, without `.json`."""
        return "manifest_frozen" if self.network == "frozen" else "manifest"

    @property
    def notebook(self) -> str:
        """The notebook that trains it."""
        return STAGES[self.settings.kind].notebook

    @property
    def test_time_views(self) -> int:
        """The number of flips and quarter turns over which predictions are averaged."""
        return getattr(self.settings, "test_time_views", 1)


def models_of(config: Config) -> dict[str, Model]:
    """Return the models of a run by name, in the order of tables.

    A network with a pretrained backbone is three models: a linear classifier on its features, the
    network with a new head, and the fine-tuned network.
    """
    rows = [Model(name, title) for name, title in TRIVIAL.items()]
    for item in config.models:
        if isinstance(item, Transfer):
            title, networks = item.title or item.backbone, (None, "frozen", "model")
            for (row, end), network in zip(TRANSFER_ROWS.items(), networks, strict=True):
                rows.append(Model(f"{item.name}_{row}", title + end, item, network))
        else:
            network = "model" if isinstance(item, Network) else None
            rows.append(Model(item.name, item.title, item, network))
    return {row.name: row for row in rows}


def titles(config: Config) -> dict[str, str]:
    """Return the title of each model of a run, by name."""
    return {name: model.title for name, model in models_of(config).items()}
