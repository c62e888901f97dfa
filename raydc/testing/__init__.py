"""Whether a method does what every method must do: the contract that holds for the methods of raydc, for anyone's.

from raydc.testing import check_method

def test_my_method():
    check_method(MyMethod)
"""

from typing import TYPE_CHECKING

from raydc.core.lazy import lazily

if TYPE_CHECKING:
    from raydc.testing.check import RULES, check_method

__all__ = ["RULES", "check_method"]
__getattr__ = lazily(__name__, {"check": ["RULES", "check_method"]})
