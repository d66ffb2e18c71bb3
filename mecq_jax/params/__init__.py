"""Quantizers over a whole parameter tree: rules by path, one pytree, a report."""

from mecq_jax.params._entropy import mean_entropy as mean_entropy
from mecq_jax.params._paths import key_name as key_name
from mecq_jax.params._paths import leaves_by_path as leaves_by_path
from mecq_jax.params._paths import parameters_by_path as parameters_by_path
from mecq_jax.params._paths import replace_leaves as replace_leaves
from mecq_jax.params._quantized import Quantized as Quantized
from mecq_jax.params._quantized import quantize_tree as quantize_tree
from mecq_jax.params._report import Report as Report
from mecq_jax.params._report import Row as Row
from mecq_jax.params._report import make_report as make_report
from mecq_jax.params._report import relative_squared_error as relative_squared_error
from mecq_jax.params._rules import Plan as Plan
from mecq_jax.params._rules import Rule as Rule
from mecq_jax.params._rules import default_rules as default_rules
from mecq_jax.params._rules import make_plan as make_plan
