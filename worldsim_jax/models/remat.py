"""What the backward pass keeps of a layer, besides its input.

  none       everything
  full       nothing
  dots       what products with parameters gave
  attention  what attention gave
  offload    nothing, and the inputs are kept in the host's memory

The selection of a mixture (attention/moc) is always kept: chosen again, it may
differ where two scores nearly agree.
"""

import jax

from worldsim_jax.attention.moc import attend as moc
from worldsim_jax.models import blocks

_policies = jax.checkpoint_policies
_selection = _policies.save_only_these_names(moc.SELECTION)
POLICIES = {
    'none': None,
    'full': _selection,
    'dots': _policies.save_from_both_policies(
        _policies.dots_with_no_batch_dims_saveable, _selection),
    'attention': _policies.save_only_these_names(
        blocks.ATTENTION_OUTPUT, moc.SELECTION),
    'offload': _policies.save_and_offload_only_these_names(
        names_which_can_be_saved=[moc.SELECTION],
        names_which_can_be_offloaded=[blocks.LAYER_INPUT],
        offload_src='device', offload_dst='pinned_host'),
}
