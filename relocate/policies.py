"""Policies of one's own: what a policy is, how policies are put together, and where they are found.

A policy is a function like `relocate.policy.decide`, which is the usual one.  Those below take policies and
give policies, so that they can be put into one another::

    from relocate.policies import only, prefer, when

    policy = when(
        lambda call: call.module.startswith("torch"),
        prefer(lambda place: place.name.startswith("gpu")),
        only(lambda place: not place.name.startswith("gpu")),
    )

It is named in the configuration, as ``policy = "my_module:policy"``, or by the name under which an
installed package offers it in the entry-point group ``relocate.policies``.

A policy is called with a lock held, and often: it computes and does nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Protocol

from .budget import Budget
from .errors import ConfigError
from .policy import Call, Decision, GiveUp, Place, Pool, Run, RunHere, decide

__all__ = ["GROUP", "Policy", "decide", "find", "here", "only", "prefer", "when"]

GROUP = "relocate.policies"


class Policy(Protocol):
    """Says where a call goes."""

    def __call__(
        self, call: Call, ranks: Sequence[Pool], now: float, chance: float, budget: Budget | None = None
    ) -> Decision:
        """Where ``call`` goes; see `relocate.policy.decide`.

        Args:
            call: its function's name, its module, what became of earlier attempts, its deadline.
            ranks: the places that its name leads to, best rank first.
            now: seconds on the clock of seats and deadlines.
            chance: uniform in [0, 1).
            budget: of attempts beyond a call's first; to be spent by who lets one run.
        """


def only(places: Callable[[Place], bool], policy: Policy = decide) -> Policy:
    """A policy that knows of no other places than these, and of the local copy.

    Args:
        places: tells of a place whether it is one of them; asked again only when places change.
        policy: decides among them.
    """

    def narrowed(
        call: Call, ranks: Sequence[Pool], now: float, chance: float, budget: Budget | None = None
    ) -> Decision:
        return policy(call, [pool.only(places) for pool in ranks], now, chance, budget)

    return narrowed


def prefer(places: Callable[[Place], bool], policy: Policy = decide) -> Policy:
    """A policy that takes these places while they can run a call at once, and else any.

    Args:
        places: as for `only`.
        policy: decides among them, and among all.
    """

    def preferring(
        call: Call, ranks: Sequence[Pool], now: float, chance: float, budget: Budget | None = None
    ) -> Decision:
        decision = policy(call, [pool.only(places) for pool in ranks if not pool.local], now, chance, budget)
        return decision if isinstance(decision, Run) else policy(call, ranks, now, chance, budget)

    return preferring


def when(calls: Callable[[Call], bool], policy: Policy, otherwise: Policy = decide) -> Policy:
    """A policy for some calls, and another for the others.

    Args:
        calls: tells of a call whether it is one of them.
        policy: decides on those.
        otherwise: decides on the others.
    """

    def choosing(
        call: Call, ranks: Sequence[Pool], now: float, chance: float, budget: Budget | None = None
    ) -> Decision:
        return (policy if calls(call) else otherwise)(call, ranks, now, chance, budget)

    return choosing


def here(call: Call, ranks: Sequence[Pool], now: float, chance: float, budget: Budget | None = None) -> Decision:
    """The policy that runs calls here, if there is a local copy; else nowhere."""
    return RunHere() if any(pool.local for pool in ranks) else GiveUp()


def find(name: str) -> Policy:
    """The policy of that name.

    Args:
        name: ``module:attribute``, or what an installed package calls it in the group ``relocate.policies``.

    Raises:
        ConfigError: there is none.
    """
    if ":" in name:
        module, _, attribute = name.partition(":")
        try:
            found = getattr(import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            raise ConfigError(f"policy: {name!r} cannot be loaded: {error}") from None
    else:
        from importlib.metadata import entry_points  # takes longer to load than all the rest here

        offered = {point.name: point for point in entry_points(group=GROUP)}
        if name not in offered:
            known = ", ".join(sorted(offered)) or "none is installed"
            raise ConfigError(f"policy: no installed package offers {name!r} ({known}); write module:attribute")
        try:
            found = offered[name].load()
        except (ImportError, AttributeError) as error:
            raise ConfigError(f"policy: {name!r} ({offered[name].value}) cannot be loaded: {error}") from None
    if not callable(found):
        raise ConfigError(f"policy: {name!r} is a {type(found).__name__}, not a function like relocate.policy.decide")
    policy: Policy = found
    return policy
