"""Quantizers over a whole parameter tree: rules by path, one pytree, a report."""

from mecq_jax.params._hardening import harden_tree as harden_tree
from mecq_jax.params._paths import key_name as key_name
from mecq_jax.params._paths import leaves_by_path as leaves_by_path
from mecq_jax.params._paths import replace_leaves as replace_leaves
from mecq_jax.params._report import Report as Report
from mecq_jax.params._report import Row as Row
from mecq_jax.params._report import make_report as make_report
from mecq_jax.params._report import relative_squared_error as relative_squared_error
from mecq_jax.params._rules import Plan as Plan
from mecq_jax.params._rules import Rule as Rule
from mecq_jax.params._rules import default_rules as default_rules
from mecq_jax.params._rules import make_plan as make_plan
from mecq_jax.params._tree import Codes as Codes
from mecq_jax.params._tree import QuantTree as QuantTree
from mecq_jax.params._tree import StateTree as StateTree
from mecq_jax.params._tree import apply_codes as apply_codes
from mecq_jax.params._tree import apply_tree as apply_tree
from mecq_jax.params._tree import codes_tree as codes_tree
from mecq_jax.params._tree import mean_entropy as mean_entropy
from mecq_jax.params._tree import quantize_tree as quantize_tree
