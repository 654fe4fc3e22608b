"""The learning rules, with one contract for all, and the table of them.

A rule maps (dynamics, θ, x, y, phases) to an `Update`, whose gradient is dL/dθ, the mean over the batch.
To add a rule, write a file beside the others and add a line to `RULES`.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from eqprop_np.checks import as_tuple, describe
from eqprop_np.network import Network
from eqprop_np.rules import asymmetric, bptt, continual, ep, holomorphic, implicit, telescoped, vector_field
from eqprop_np.rules.phases import ESTIMATES, Estimate, Rule, Signs, signs_of

ONE_NUDGE: tuple[Estimate, ...] = ("one-sided", "random-sign")


@dataclass(frozen=True)
class LearningRule:
    """A line of the table of rules.

    Parameters
    ----------
    name : str
        The word on the command line.
    function : callable
        The rule as a user calls it. It checks its arguments.
    networks : {"tied", "untied", "both"}
        The networks that the commands build for the rule. "untied" says that it is meant for them; it then
        also accepts tied ones.
    estimates : tuple of str
        The values of `Phases.estimate` that it accepts.
    moves_weights : bool
        Whether the weights move in the second phase.
    readout : bool
        Whether the rule trains the parameters of an `eqprop_np.costs.Readout`.
    twin : callable, optional
        A faster rule with the same result.
    twin_applies : callable
        Maps a network to whether the twin applies to it.

    Raises
    ------
    TypeError, ValueError
        If a parameter is of another kind.
    """

    name: str
    function: Rule
    networks: Literal["tied", "untied", "both"] = "tied"
    estimates: tuple[Estimate, ...] = ESTIMATES
    moves_weights: bool = False
    readout: bool = True
    twin: Rule | None = None
    twin_applies: Callable[[Network], bool] = telescoped.is_dense

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise TypeError(f"function must be a rule such as eqprop_np.ep, got {describe(self.function)}")
        if self.networks not in ("tied", "untied", "both"):
            raise ValueError(f"networks must be tied, untied or both, got {describe(self.networks)}")
        estimates = as_tuple("estimates", self.estimates, 'a tuple of estimates such as ("one-sided",)')
        if not estimates or not set(estimates) <= set(ESTIMATES):
            raise ValueError(f"estimates must be some of {', '.join(ESTIMATES)}, got {estimates}")
        object.__setattr__(self, "estimates", estimates)

    @property
    def signs(self) -> Signs:
        """The signs of β that the rule uses."""
        return signs_of(self.function)

    @property
    def in_table(self) -> bool:
        """Whether this is a line of `RULES`, and not the record of a rule of your own."""
        return RULES.get(self.name) == self

    def fastest(self, network: Network) -> Rule:
        """Return the fastest form of the rule for this network. A rule of the table does not check there."""
        rule = self.function if self.twin is None or not self.twin_applies(network) else self.twin
        if not self.in_table:
            return rule  # a decorator of your own rule may do more than check, so it is kept
        unchecked: Rule = inspect.unwrap(rule)
        return unchecked


def learning_rule(rule: Rule | LearningRule) -> LearningRule:
    """Return the record of a rule: that of the table, or a new one for a rule of your own."""
    if isinstance(rule, LearningRule):
        return rule
    if hasattr(rule, "__enter__"):
        raise TypeError("rule must be a function: write `with eqprop_np.share(...) as rule:` around the call")
    if not callable(rule):
        raise TypeError(f"rule must be a function such as eqprop_np.ep, got {describe(rule)}")
    known = (record for record in RULES.values() if record.function is rule)
    return next(known, LearningRule(getattr(rule, "__name__", "own rule"), rule, networks="both"))


RULES = {
    rule.name: rule
    for rule in (
        LearningRule("ep", ep.ep),
        LearningRule(
            "cep",
            continual.cep,
            estimates=ONE_NUDGE,
            moves_weights=True,
            readout=False,
            twin=telescoped.telescoped_cep,
        ),
        LearningRule(
            "vf",
            vector_field.vf,
            networks="untied",
            estimates=ONE_NUDGE,
            readout=False,
            twin=telescoped.telescoped_vf,
        ),
        LearningRule(
            "cvf",
            vector_field.cvf,
            networks="untied",
            estimates=ONE_NUDGE,
            moves_weights=True,
            readout=False,
            twin=telescoped.telescoped_cvf,
        ),
        LearningRule("bptt", bptt.bptt, networks="both"),
        LearningRule("implicit", implicit.implicit_gradient, networks="both"),
        LearningRule("holomorphic", holomorphic.holomorphic_ep, readout=False),
        LearningRule("asymep", asymmetric.asymep, networks="both"),
    )
}
"""The table of the rules: each name on the command line and its record."""
