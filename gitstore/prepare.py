"""A commit to a deployment's facts: analysis and bundle, in one limited child. (Signatures first.)

prepare.analysis_and_bundle(parts, tenant, commit, *, quarantine: Quarantine | None = None) -> Prepared
    Raises Refused with `.details["diagnostics"] = [(path, line, column, message), …]` when the sources do not compile or a
    workflow is unusable; Refused for limits.
@dataclass(frozen=True, slots=True) class Prepared: analysis: Analysis; bundle: BundleRef; tree: str
analysis.Analysis(workflows: tuple[WorkflowFound(name, path, line, module), ...], warnings: tuple[str, ...], errors: tuple[Diagnostic, ...])
bundle.BundleRef(key: str, path: Path);  bundle.ensure(parts, tenant, commit) -> BundleRef
worker.WorkerPool(size).run(job name, request, answer type, limits) -> answer;  close()
"""
