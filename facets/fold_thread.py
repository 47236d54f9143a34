"""The thread that folds once in a while, beside everything else.

Each round folds what has gathered, trims the log when that is due, and in quiet times brings the rest home: the log and
the write-ahead files are cut short, and base images deflated better.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from facets.errors import FacetError, Fenced, StorageFull, StoreFailed
from facets.fold import Fold
from facets.limits import Limits
from facets.tail import Tail

logger = logging.getLogger(__name__)

# So many rounds without anything to fold make a quiet time.
QUIET_ROUNDS = 3
# What one round erases of what was deleted, and as much again of what may be forgotten: folding goes on meanwhile.
ROUND_ERASE_BYTES = 16 * 1024 * 1024


class FoldThread:
    """Folds once in a while, beside everything else, until it is stopped or the store has failed."""

    def __init__(self, fold: Fold, tail: Tail, limits: Limits, *, on_failure: Callable[[FacetError], None]) -> None:
        self._fold = fold
        self._tail = tail
        self._limits = limits
        self._on_failure = on_failure
        self._wanted = threading.Condition()
        self._stopping = False
        self._full: StorageFull | None = None
        self._thread = threading.Thread(target=self._run, name="facets-fold", daemon=True)
        self._thread.start()

    def hurry(self) -> None:
        """Fold now rather than at the next interval."""
        with self._wanted:
            self._wanted.notify_all()

    def wait_for_room(self) -> None:
        """Hold an appender back while the tail is at its limit: memory is bounded even if the disk is slow.

        Raises StorageFull if it stays there because the state database cannot grow.
        """
        if self._tail.size <= self._limits.tail_bytes_max:
            return
        with self._wanted:
            while self._tail.size > self._limits.tail_bytes_max and not self._stopping:
                if self._full is not None:
                    raise StorageFull(self._full.message, hint=self._full.hint, details=self._full.details)
                self._wanted.notify_all()
                self._wanted.wait(0.1)

    def stop(self) -> None:
        with self._wanted:
            self._stopping = True
            self._wanted.notify_all()
        self._thread.join()

    def _run(self) -> None:
        interval_s = self._limits.fold_interval_ms / 1000
        quiet_rounds = 0
        while True:
            with self._wanted:
                if not self._stopping:
                    self._wanted.wait(interval_s)
                if self._stopping:
                    return
            try:
                before = self._fold.folded
                has_folded = self._fold.fold() > before
                self._fold.erase(bytes_max=ROUND_ERASE_BYTES)
                self._fold.forget(bytes_max=ROUND_ERASE_BYTES)
                # When nothing more comes in, the rest is brought home too, so that a quiet store is small and safe.
                quiet_rounds = 0 if has_folded else quiet_rounds + 1
                is_quiet = quiet_rounds >= QUIET_ROUNDS
                if is_quiet and self._fold.has_gathered:
                    self._fold.trim(compact=True)
                elif self._fold.is_trim_due:
                    self._fold.trim()
                elif is_quiet:
                    self._fold.tidy()
                self._full = None
            except StorageFull as error:
                self._full = error
                logger.warning("folding waits for disk space: %s", error)
            except (StoreFailed, Fenced) as error:
                self._on_failure(error)
                with self._wanted:
                    self._stopping = True
                    self._wanted.notify_all()
                return
            except FacetError as error:
                logger.warning("folding will be tried again: %s", error)
            except Exception as error:
                logger.exception("the fold failed")
                self._on_failure(StoreFailed(f"The fold failed: {error!r}."))
                with self._wanted:
                    self._stopping = True
                    self._wanted.notify_all()
                return
            with self._wanted:
                self._wanted.notify_all()
