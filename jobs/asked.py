"""Which segmenter is asked, on which split, under which protocol of prompts: known before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from busistore.errors import BusistoreError, lookup
from busistore.ids import content_id
from busistore.jobs import Track, silent
from busistore.jobs.episodes import Split, load_split
from busistore.jobs.proposals import Chosen, Proposer, choose
from busistore.jobs.segmenters import begun, changed_since, network_of, published, trained
from busistore.methods import with_parameters
from busistore.segmenters import PROTOCOLS, SEGMENTERS, Segmenter, Start
from busistore.store import Store

if TYPE_CHECKING:
    from busistore.segmenters.training import Network

CODE = 3  # raised when the masks of the same weights change


class Held(NamedTuple):
    """A segmenter that is ready to answer, the protocol of its prompts, and what proposes them where nobody knows."""

    segmenter: Segmenter
    start: Start
    network: Network
    prompt: str
    proposer: Proposer | None


@dataclass(frozen=True)
class Asked:
    """A segmenter by its row, what it begins with, the split it is asked on, and who says where it is to look."""

    row: dict[str, Any]
    segmenter: Segmenter
    start: Start
    split: Split
    prompt: str
    chosen: Chosen | None = None

    @property
    def proposer_id(self) -> str:
        """'' where no prompt is proposed."""
        return self.chosen.proposer_id if self.chosen else ""

    def source_id(self, part: str, inputs_sha256: str) -> str:
        """The id of the masks that it gives, as its weights lie there, of a part as it is now."""
        row = self.row
        key = {"segmenter_id": row["segmenter_id"], "file_sha256": row["file_sha256"], "prompt": self.prompt,
               "proposer": self.proposer_id, "split_id": self.split.split_id, "part": part,
               "inputs_sha256": inputs_sha256, "code": CODE}  # fmt: skip
        return content_id(f"{row['segmenter']}-{self.prompt}", key)

    def hold(self, store: Store, track: Track = silent) -> Held:
        """Load the segmenter, and load or fit its proposer if the protocol needs one."""
        network = network_of(store, self.row, self.segmenter, self.start)
        made = self.chosen.make(network, track) if self.chosen else None
        return Held(self.segmenter, self.start, network, self.prompt, made)

    def warnings(self, store: Store) -> list[str]:
        """What must be read with its masks."""
        kind = self.row["segmenter"]
        told = [f"'{kind}' began with RANDOM weights: see `init` of its rows"] if self.row["init"] == "random" else []
        proposing = self.chosen.row if self.chosen else None
        return told + [said for row in (self.row, proposing) if row and (said := changed_since(store, row))]


def ask(
    store: Store, name: str, *, prompt: str | None = None, proposed_by: str | None = None, split: str | None = None,
    dataset: str | None = None, parameters: dict[str, str] | None = None, weights: Path | None = None,
) -> Asked:  # fmt: skip
    """A segmenter that is named as in `segment`; nothing is written.

    Raises:
        BusistoreError: there is none, or it does not take that prompt or proposer.
        MissingWeights: its weights are not at hand.
    """
    row, chosen = _named(store, name, split, dataset, parameters or {}, weights)
    prompt = prompt_of(row, prompt, proposed_by)
    segmenter, start = begun(row, weights)
    is_proposed = segmenter.prompted and not prompt.startswith("oracle")
    return Asked(row, segmenter, start, chosen, prompt,
                 choose(store, proposed_by, chosen, segmenter, start) if is_proposed else None)  # fmt: skip


def _named(
    store: Store, name: str, split: str | None, dataset: str | None, parameters: dict[str, str], weights: Path | None
) -> tuple[dict[str, Any], Split]:
    kind = SEGMENTERS.get(name)
    if kind is not None and (not kind.is_trained or weights is not None):
        return published(store, _whole(kind, parameters), weights), load_split(store, split, dataset)
    if parameters:
        raise BusistoreError(f"'{name}' is as it was trained; -p is for `train-segmenter`, or with --weights of a file")
    wanted = None if split is None and dataset is None else load_split(store, split, dataset)
    row = trained(store, name, wanted)
    _check_trained(row["segmenter_id"], SEGMENTERS[row["segmenter"]], row["init"], row["n_train"])
    return row, load_split(store, row["split_id"] or split, None if row["split_id"] else dataset)


def _whole(kind: type[Segmenter], parameters: dict[str, str]) -> Segmenter:
    """A segmenter to be used without training: of one that is trained here, nothing but a whole checkpoint will do."""
    made = with_parameters(kind, ({"init": "bussam"} if "bussam" in kind.inits else {}) | parameters)
    if kind.inits:
        _check_trained(kind.name, kind, made.init)
    return made


def _check_trained(name: str, kind: type[Segmenter], init: str, n_train: int = 0) -> None:
    """Refuse what is trained here and was not, unless it is a whole checkpoint: its adapters would be random."""
    if kind.is_trained and not n_train and init != "bussam":
        remedy = f"`busistore train-segmenter {kind.name} --init {init}`, with the same --weights, does it"
        raise BusistoreError(f"'{name}' with init={init} is not trained; {remedy}, or --init bussam takes a checkpoint")


def prompt_of(row: dict[str, Any], prompt: str | None, proposed_by: str | None = None) -> str:
    """The protocol of prompts of a segmenter; raises BusistoreError for one that it does not take."""
    kind = SEGMENTERS[row["segmenter"]]
    prompt = prompt or ("auto" if proposed_by or not kind.prompted else "oracle-click")
    lookup("prompt", prompt, PROTOCOLS)
    if not kind.prompted and (prompt != "auto" or proposed_by):
        raise BusistoreError(f"'{kind.name}' takes no prompt: it is 'auto', not '{proposed_by or prompt}'")
    if proposed_by and prompt.startswith("oracle"):
        raise BusistoreError(f"prompt '{prompt}' is taken from the truth; --proposer is for 'auto' and 'auto-box'")
    return prompt
