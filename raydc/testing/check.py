"""The whole contract on one method, and all that it breaks told at once."""

import traceback
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from raydc import methods
from raydc.methods.base import Method
from raydc.testing import contract
from raydc.testing.answers import one_answer_everywhere
from raydc.testing.parallel import two_workers_are_one

Rule = Callable[[str], None]
RULES: Mapping[str, Rule] = {
    "says what it is": contract.says_what_it_is,
    "settings out of range are named": contract.settings_out_of_range_are_named,
    "losses are finite": contract.losses_are_finite,
    "labels are clusters": contract.labels_are_clusters,
    "finds clear groups": contract.finds_the_blobs,
    "every parameter is trained": contract.every_player_s_parameters_get_gradients,
    "collapse is reported": contract.collapse_is_reported,
    "a resumed run ends as the whole one": contract.a_resumed_run_ends_as_the_whole_one,
    "new rows are assigned, or it is said why not": contract.assigns_new_rows_or_says_why_not,
    "samples have the shape of rows": contract.samples_have_the_shape_of_rows,
    "the state is all there is": contract.the_state_is_all_there_is,
    "settings act": contract.settings_act,
    "settings that are not read are refused": contract.settings_that_are_not_read_are_refused,
    "recipes train": contract.recipes_train_through_all_phases,
    "two workers are one": two_workers_are_one,
    "one row has one answer": one_answer_everywhere,
}
"""Each by what it asks; a function of a method's name that raises AssertionError in words."""


def check_method(
    method: type[Method] | str, *, unread: Collection[str] = (), leave: Collection[str] = (), verbose: bool = False
) -> None:
    """The whole contract, on a class or on what `--method` takes. AssertionError tells every rule that is broken.

    `unread` are settings (dotted, such as "cluster.tolerance") that a training of a few steps cannot show, `leave` are
    names of RULES to leave out; `verbose` prints each rule as it is asked. Takes some seconds for small `quick`
    settings, and begins two processes, so that a script calls it under `if __name__ == "__main__":`. A class that is
    defined in a notebook is taken too.
    """
    for name in leave:
        if name not in RULES:
            raise ValueError(f"leave: there is no rule {name!r}; there are {', '.join(RULES)}")
    rules = dict(RULES)
    rules["settings act"] = partial(contract.settings_act, later=unread)
    rules["settings that are not read are refused"] = partial(
        contract.settings_that_are_not_read_are_refused, unread=unread
    )
    broken = {}
    with _named(method) as name, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of rows that are made to be odd
        for said, rule in rules.items():
            if said not in leave:
                problem = _asked(rule, name)
                if problem:
                    broken[said] = problem
                if verbose:
                    print(f"{'BROKEN' if problem else 'ok':7}{said}", flush=True)
    if broken:
        what = method if isinstance(method, str) else method.__name__
        lines = [f"  {said}: {problem}" for said, problem in broken.items()]
        raise AssertionError("\n".join([f"{what} breaks {len(broken)} of {len(rules) - len(leave)} rules:", *lines]))


def _asked(rule: Rule, name: str) -> str:
    """How a method breaks a rule, in words; empty if it does not."""
    try:
        rule(name)
    except AssertionError as problem:
        return str(problem)
    except Exception as problem:  # somebody else's code
        where = traceback.extract_tb(problem.__traceback__)[-1]
        return f"{type(problem).__name__}: {problem} ({Path(where.filename).name}, line {where.lineno})"
    return ""


@contextmanager
def _named(method: type[Method] | str) -> Iterator[str]:
    """A name by which the method is had meanwhile."""
    if isinstance(method, str):
        yield methods.full_name(method)
        return
    if not (isinstance(method, type) and issubclass(method, Method)):
        raise TypeError(f"expected a class derived from raydc.methods.base.Method, or a method's name, got {method!r}")
    name = f"checked_{method.__name__}"
    methods.PLUGINS.register(name, method)
    try:
        yield name
    finally:
        methods.PLUGINS.forget(name)
        contract.whole.cache_clear()
        contract.resumed.cache_clear()
