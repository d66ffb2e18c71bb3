"""The quantizers that the method is compared with, a file each: published ones and ablations.

By name they are in `mecq_jax.quantizers.QUANTIZERS`.
"""

from mecq_jax.quantizers.baselines._apot import APoT as APoT
from mecq_jax.quantizers.baselines._apot import additive_powers_of_two as additive_powers_of_two
from mecq_jax.quantizers.baselines._balanced import Balanced as Balanced
from mecq_jax.quantizers.baselines._dkm import DKM as DKM
from mecq_jax.quantizers.baselines._dorefa import DoReFa as DoReFa
from mecq_jax.quantizers.baselines._ewgs import EWGS as EWGS
from mecq_jax.quantizers.baselines._hard_forward import HardForward as HardForward
from mecq_jax.quantizers.baselines._lsq import LSQ as LSQ
from mecq_jax.quantizers.baselines._parq import PARQ as PARQ
from mecq_jax.quantizers.baselines._slb import SLB as SLB
from mecq_jax.quantizers.baselines._ste import STE as STE
