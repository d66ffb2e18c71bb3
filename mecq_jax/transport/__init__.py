"""Entropic optimal transport from the weights of one group to k levels; knows no network.

One convention, everywhere: weights w [n] of mass 1/n each, ascending levels q [k] with masses b (sum 1), cost
C_ij = (w_i - q_j)^2 and epsilon > 0, both in weight^2. Every solver returns the k level potentials g of

    P_ij = exp((f_i + g_j - C_ij) / epsilon),      sum_j P_ij = 1/n,      sum_i P_ij = b_j

g carries epsilon log b and has mean 0 over the levels of positive mass; f follows from g. The problem, its dual, the
relaxed marginal (`balance` below 1) and the sources are in the docstring of `mecq_jax.transport._semidual`.
"""

from mecq_jax.transport._assignment import GRADIENTS as GRADIENTS
from mecq_jax.transport._assignment import Assignment as Assignment
from mecq_jax.transport._assignment import readout as readout
from mecq_jax.transport._assignment import soft_assign as soft_assign
from mecq_jax.transport._blockwise import map_groups as map_groups
from mecq_jax.transport._hard_assignment import hard_codes as hard_codes
from mecq_jax.transport._hard_assignment import occupancy as occupancy
from mecq_jax.transport._hard_assignment import thresholds as thresholds
from mecq_jax.transport._implicit_potentials import implicit_potentials as implicit_potentials
from mecq_jax.transport._initial_potentials import cold_start as cold_start
from mecq_jax.transport._initial_potentials import large_epsilon as large_epsilon
from mecq_jax.transport._initial_potentials import small_epsilon as small_epsilon
from mecq_jax.transport._initial_potentials import sorted_sample as sorted_sample
from mecq_jax.transport._newton import Newton as Newton
from mecq_jax.transport._ott import Ott as Ott
from mecq_jax.transport._semidual import Scalar as Scalar
from mecq_jax.transport._semidual import dual_value as dual_value
from mecq_jax.transport._semidual import marginal as marginal
from mecq_jax.transport._semidual import marginal_and_links as marginal_and_links
from mecq_jax.transport._semidual import marginal_error as marginal_error
from mecq_jax.transport._semidual import probabilities as probabilities
from mecq_jax.transport._semidual import relaxed_marginal as relaxed_marginal
from mecq_jax.transport._sinkhorn import Sinkhorn as Sinkhorn
from mecq_jax.transport._sinkhorn import sinkhorn_step as sinkhorn_step
from mecq_jax.transport._solution import Solution as Solution
from mecq_jax.transport._solve import SOLVERS as SOLVERS
from mecq_jax.transport._solve import Solver as Solver
from mecq_jax.transport._solve import check_balance as check_balance
from mecq_jax.transport._solve import check_prior as check_prior
from mecq_jax.transport._solve import get_solver as get_solver
from mecq_jax.transport._solve import solve as solve
