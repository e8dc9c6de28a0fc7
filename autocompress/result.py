"""The result of a search."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autocompress.errors import AutoCompressError, ConfigError, ModuleError, StoreError, beginning
from autocompress.plain_json import parsed, shown_path
from autocompress.records import Baseline, TrialRecord
from autocompress.report import write_report
from autocompress.report.diagnosis import infeasible
from autocompress.report.verdict import closeness, disagreements
from autocompress.search import best
from autocompress.store import ExperimentDirectory, Ledger, Verdict

if TYPE_CHECKING:
    import pandas
    from torch import nn

    from autocompress.compression.measure import ReferenceModel
    from autocompress.compression.module_loading import AnyReference
    from autocompress.formats.export import ExportReport
    from autocompress.plan import ExperimentPlan


@dataclass(frozen=True, init=False)
class CompressionResult:
    """The result of a search, read from its directory; the same for every engine.

    Args:
        directory: the search's.
        module: the user's module, where this process runs or has run the search. A directory that was only opened names
            a file that anybody may have written: it is not run unless the caller says so.
        source: the uncompressed model, where this process has it, as a training loop does.

    Attributes:
        directory: the search's files.
        module: as given.
        source: as given.
    """

    directory: ExperimentDirectory
    module: AnyReference | None
    source: ReferenceModel | None = field(repr=False)

    def __init__(
        self,
        directory: ExperimentDirectory | str | os.PathLike[str],
        module: AnyReference | None = None,
        *,
        source: ReferenceModel | None = None,
    ) -> None:
        store = directory if isinstance(directory, ExperimentDirectory) else ExperimentDirectory(Path(directory))
        for name, value in (("directory", store), ("module", module), ("source", source)):
            object.__setattr__(self, name, value)

    @property
    def plan(self) -> ExperimentPlan:
        """The plan of the search.

        Raises:
            StoreError: there is no experiment, or its files are damaged.
        """
        from autocompress.plan import ExperimentPlan  # here: a result loads without pydantic

        return ExperimentPlan.read(self.directory)

    @property
    def records(self) -> list[TrialRecord]:
        """Records of all trials in the order they ended."""
        return Ledger(self.directory).records

    @property
    def baseline(self) -> Baseline:
        """The uncompressed model."""
        return self.plan.measured

    @property
    def threshold(self) -> float:
        """The worst tolerable accuracy."""
        return self.plan.threshold

    @property
    def best(self) -> TrialRecord:
        """The feasible trial with the highest score, unless its checkpoint failed when it was loaded afresh.

        Raises:
            InfeasibleBudgetError: there is none.
        """
        return self._best(Ledger(self.directory))

    @property
    def verdict(self) -> Verdict | None:
        """The verification of the best model; None while the search has not ended."""
        return Ledger(self.directory).verdicts.get(self.best.key)

    @property
    def verdicts(self) -> Mapping[str, Verdict]:
        """The verifications of models, by the keys of their trials."""
        return Ledger(self.directory).verdicts

    @property
    def disagreements(self) -> list[str]:
        """A sentence about each trial whose model evaluates differently when loaded afresh, at most three."""
        ledger = Ledger(self.directory)
        return disagreements(ledger.records, ledger.verdicts)

    @property
    def checkpoint(self) -> Path:
        """The best model's checkpoint, a directory.

        Raises:
            InfeasibleBudgetError: there is none.
        """
        return self.directory.trial(self.best.key).checkpoint

    @property
    def loading_line(self) -> str:
        """The line of Python that loads the best model in any process on this machine.

        Raises:
            InfeasibleBudgetError: nothing stayed within the budget.
            StoreError: the checkpoint is damaged.
        """
        place, reference = json.dumps(str(self.checkpoint), ensure_ascii=False), self.plan.module
        line = f"import autocompress; model = autocompress.load_compressed({place}"
        if self._needs_no_module():
            return f"{line})"
        if "file" not in reference:
            return f"{line}, original)  # original: the uncompressed model"
        return f"{line}, trust_module=True)  # runs {shown_path(reference['file'])}"

    def _needs_no_module(self) -> bool:
        file = self.checkpoint / "structure.json"
        described = parsed(file.read_bytes()) if file.is_file() else {}
        return isinstance(described, dict) and described.get("kind") == "int8"

    @cached_property
    def model(self) -> nn.Module:
        """The best model, as `load_model()` loads it; always the same object of this result.

        Raises:
            AutoCompressError: as `load_model` does.
        """
        return self.load_model()

    def load_model(self, model: nn.Module | None = None, *, trust_module: bool = False) -> nn.Module:
        """The best model, physically smaller, on the device its module builds models on, in eval mode.

        Args:
            model: the uncompressed model, copied, not changed; by default the module's, or the one that a training loop
                of this process was given.
            trust_module: run the module's file that the directory names, though it was not this process that began or
                resumed the search, and has not imported that file.

        Raises:
            InfeasibleBudgetError: nothing stayed within the budget.
            ModuleError: a training loop's directory was opened, and no model is given.
            StoreError: the checkpoint is damaged, or the module's file would have to be run.
        """
        from autocompress.compression.module import fresh_model
        from autocompress.formats.checkpoint import load_compressed

        if model is None and self.source is not None:
            model = self.source.original
        if model is None and not self._needs_no_module():
            reference = self._module("load_model(", trust_module)
            with reference.on_path():
                model = fresh_model(reference.load())
        return load_compressed(self.checkpoint, model).eval()

    def _module(self, call: str, trust_module: bool) -> AnyReference:
        """Reference to the module, if it may be run."""
        from autocompress.compression.module_loading import ModuleReference

        if self.module is not None:
            return self.module
        recorded = self.plan.module
        if "name" not in recorded:
            raise ModuleError(
                "the uncompressed model must be given, as the directory of autocompress.compress or of a "
                f"training loop names no module that builds it: {call}model)"
            )
        reference = ModuleReference.from_dict(recorded)
        if not trust_module and reference.in_memory() is None:
            what = f"the experiment in {str(self.directory.path)!r}"
            raise StoreError(
                reference.untrusted_message(what, lambda given: f"{call}{given})", takes_model=call.endswith("("))
            )
        return reference

    def export(
        self,
        path: str | os.PathLike[str],
        model: nn.Module | None = None,
        example_inputs: Any = None,
        *,
        trust_module: bool = False,
    ) -> ExportReport:
        """Write the best model as `.onnx`, `.pt2`, `.dot`, or a directory with a plain state dict.

        Beside a `.dot` file the uncompressed model's graph is written too, as `<name>.uncompressed.dot`.

        Args:
            path: of the file, or of the directory.
            model: the uncompressed model; as for `load_model`.
            example_inputs: a tensor, or a tuple or dictionary of the arguments of one forward pass; by default those of
                the module, or of a training loop's configuration. They must be given beside a model whose search has
                a module, which is not run then.
            trust_module: see `load_model`.

        Raises:
            InfeasibleBudgetError: nothing stayed within the budget.
            ConfigError: an unknown suffix, packages that a format needs are missing, or example_inputs must be given.
            ModuleError: a training loop's directory was opened, and no model is given.
            CompressionError: the model cannot be exported, or what was written computes something else.
            StoreError: the checkpoint is damaged, the module's file would have to be run, or the files cannot be
                written.
        """
        from autocompress.compression.module import example_inputs as inputs_of
        from autocompress.compression.module import fresh_model

        if model is not None or self.source is not None:
            original = model if model is not None or self.source is None else self.source.original
            assert original is not None
            return self._export(
                Path(path), original, self._inputs(original) if example_inputs is None else example_inputs
            )
        reference = self._module(f"export({str(path)!r}, ", trust_module)
        with reference.on_path():
            module = reference.load()
            inputs = inputs_of(module) if example_inputs is None else example_inputs
            return self._export(Path(path), fresh_model(module), inputs)

    def _export(self, path: Path, original: nn.Module, inputs: Any) -> ExportReport:
        from autocompress.formats.export import export

        report = export(self.load_model(original), path, inputs, original=original)
        if path.suffix == ".dot":
            export(original, path.with_suffix(".uncompressed.dot"), inputs)
        return report

    def _inputs(self, model: nn.Module) -> tuple[Any, ...]:
        """Example inputs of a model that is given: those of the training loop or of its configuration."""
        from autocompress.nncf.config import CompressionConfig
        from autocompress.nncf.create import example_inputs
        from autocompress.plan import LoopPlan

        if self.source is not None:
            return self.source.inputs
        engine = self.plan.engine
        config = CompressionConfig.from_dict(engine.config) if isinstance(engine, LoopPlan) else None
        if config is None or not config.input_info:
            raise ConfigError("example_inputs must be given beside a model: the search's files describe no inputs")
        return example_inputs(config, model)

    def report(self, path: str | os.PathLike[str] | None = None) -> Path:
        """Write one self-contained HTML page, and its plots as SVG and PNG in `plots/` beside it.

        Args:
            path: of the page; `report.html` in the experiment's directory by default.

        Returns:
            the page.

        Raises:
            StoreError: the experiment's files are damaged, or the report cannot be written.
        """
        return write_report(self.directory, path)

    def to_dataframe(self) -> pandas.DataFrame:
        """One row a trial in the order they ended; the columns are the fields of `TrialRecord`."""
        import pandas

        names = [field.name for field in dataclasses.fields(TrialRecord)]
        return pandas.DataFrame([dataclasses.asdict(record) for record in self.records], columns=names)

    def __str__(self) -> str:
        """The summary, or why there is none."""
        try:
            return f"{self.summary()}\nload it     {self.loading_line}"
        except AutoCompressError as error:
            return f"{error}\nsearch      {self.directory.path}"

    def _repr_html_(self) -> str:
        """HTML for notebooks."""
        from autocompress.report.data import read_report_data
        from autocompress.report.page import notebook

        return notebook(read_report_data(self.directory))

    def verify(self, check: Callable[[Path], Verdict] | None = None) -> TrialRecord:
        """Load the best model and evaluate it; one outside the budget gives way to the next.

        Args:
            check: loads a checkpoint and evaluates it; by default in a new process, which runs the user's module.

        Returns:
            the record of the model that holds.

        Raises:
            InfeasibleBudgetError: none holds.
        """
        from autocompress.trial.child import verify_in_child

        ledger, plan = Ledger(self.directory), self.plan
        while (record := best(ledger.not_disproved)) is not None and record.key not in ledger.verdicts:
            checkpoint = self.directory.trial(record.key).checkpoint
            if check is None:
                verdict = verify_in_child(plan.module, checkpoint, plan.threshold, self.directory.path, plan.settings)
            else:
                verdict = check(checkpoint)
            ledger.add_verdict(record.key, verdict)
        return self.best

    def summary(self) -> str:
        """The verdict in a few lines of plain text.

        Raises:
            InfeasibleBudgetError: nothing stayed within the budget.
        """
        ledger, plan = Ledger(self.directory), self.plan
        record, baseline = self._best(ledger), plan.measured
        rate = "" if record.requested_rate is None else f" at rate {record.requested_rate:g}"
        accuracy = "not known" if record.accuracy is None else f"{record.accuracy:g}"
        lines = [
            f"{record.algorithm}{rate}: {record.parameters_removed or 0:.1%} of the parameters and "
            f"{record.macs_removed or 0:.1%} of the multiply-accumulates removed",
            f"accuracy    {accuracy} (uncompressed {baseline.accuracy:g}, threshold {plan.threshold:g})",
        ]
        if record.accuracy_error is not None:
            lines.append(f"margin      {closeness(record, paired=baseline.paired)}")
        if (verdict := ledger.verdicts.get(record.key)) is not None:
            lines.append(f"verified    {verdict.accuracy:g} when loaded afresh")
            if verdict.holdout_accuracy is not None and baseline.holdout_accuracy is not None:
                lines.append(f"hold-out    {verdict.holdout_accuracy:g} (uncompressed {baseline.holdout_accuracy:g})")
        lines += [
            f"size        {record.bytes or 0:,} bytes (uncompressed {baseline.measurement.bytes:,}, "
            f"{record.size_removed or 0:.1%} smaller)",
            f"search      {len(ledger.records)} trials, {sum(entry.epochs for entry in ledger.records)} epochs",
            f"checkpoint  {self.directory.trial(record.key).checkpoint}",
        ]
        if record.simulated:
            lines.append("simulated   computes in floating point what other kernels would in fewer bits")
        if record.latency is not None:
            lines.append(f"latency     {1000 * record.latency:.3g} ms ({record.latency_removed or 0:.1%} less)")
        failed = [entry for entry in ledger.records if entry.error is not None]
        if failed:
            lines.append(f"failed      {len(failed)} of them, the last with {beginning(str(failed[-1].error))}")
        lines += [f"warning     {sentence}" for sentence in disagreements(ledger.records, ledger.verdicts)]
        return "\n".join(lines)

    def _best(self, ledger: Ledger) -> TrialRecord:
        record = best(ledger.not_disproved)
        if record is None:
            raise infeasible(self.plan, ledger.records, ledger.verdicts, ledger.directory)
        return record
