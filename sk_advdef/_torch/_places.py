"""Where a net drops values, and what stands there so that all rows share a mask."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.utils.rnn import PackedSequence

from sk_advdef._torch._copies import copied
from sk_advdef._torch._masked_linear import MaskedLinear, followed_by_linear

Mask = tuple[torch.Tensor, torch.Tensor | None]


class Place:
    """Multiplies and adds what it is given, call by call.

    While ``shapes`` is a list it only notes the shapes that pass through.
    ``channels_only`` drops all of a channel, ``alpha`` is the dropout of SELU nets.
    """

    def __init__(
        self,
        p: float,
        *,
        channels_only: bool = False,
        alpha: bool = False,
        batch_axis: int = 0,
    ) -> None:
        self.p, self.channels_only, self.alpha = p, channels_only, alpha
        self.batch_axis = batch_axis
        self.shapes: list[torch.Size] | None = None
        self.masks: list[Mask] = []
        self.calls = 0

    def next_mask(self, x: torch.Tensor) -> Mask:
        """Return the mask of this call."""
        fits = self.calls < len(self.masks)
        if fits:
            wanted = self.masks[self.calls][0].shape
            fits = len(wanted) == x.ndim and all(
                m in (1, s) for m, s in zip(wanted, x.shape, strict=True)
            )
        if not fits:
            raise ValueError(
                "The net calls a dropout more often, or on values of another shape, "
                "than on the rows that its masks were drawn for. Rows can share masks "
                "only where the shapes do not depend on what is in them."
            )
        self.calls += 1
        return self.masks[self.calls - 1]

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Return what is left of ``x``."""
        if self.shapes is not None:
            self.shapes.append(x.shape)
            return x
        if not self.masks:  # p = 0
            return x
        scale, shift = self.next_mask(x)
        return x * scale if shift is None else x * scale + shift


class MaskedDropout(nn.Module):
    """Stands for a dropout module."""

    def __init__(self, dropout: Any) -> None:
        super().__init__()
        alpha = isinstance(dropout, (nn.AlphaDropout, nn.FeatureAlphaDropout))
        of_channels = (nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.FeatureAlphaDropout)
        self.place = Place(
            dropout.p, channels_only=isinstance(dropout, of_channels), alpha=alpha
        )
        #: whether a linear layer is called next, and the mask that it is to take over
        self.to_linear = False
        self.held: torch.Tensor | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return what is left of ``x``, or leave the mask to the linear layer."""
        place = self.place
        if not (self.to_linear and place.masks and not torch.is_grad_enabled()):
            return place(x)
        if place.alpha:
            return place(x)
        scale, _ = place.next_mask(x)
        self.held = scale.expand(1, *x.shape[1:])
        return x


class MaskedAttention(nn.MultiheadAttention):
    """MultiheadAttention whose dropout, on the attention weights, is a place."""

    place: Place

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        key_padding_mask: torch.Tensor | None = None,
        need_weights: bool = True,
        attn_mask: torch.Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return what is attended to, and the weights where they are asked for."""
        if is_causal and attn_mask is None:
            raise ValueError("is_causal=True needs attn_mask, as in torch.")
        given = (query, key, value)
        if not self.batch_first:
            given = tuple(t.transpose(0, 1) for t in given)  # type: ignore[assignment]
        if self._qkv_same_embed_dim:
            weights = self.in_proj_weight.chunk(3)
        else:
            weights = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
        biases = (
            (None,) * 3 if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
        )
        q, k, v = map(nn.functional.linear, given, weights, biases)
        rows, extra = len(q), 0
        if self.bias_k is not None and self.bias_v is not None:
            k = torch.cat([k, self.bias_k.expand(rows, 1, -1)], dim=1)
            v = torch.cat([v, self.bias_v.expand(rows, 1, -1)], dim=1)
            extra += 1
        q, k, v = (
            t.reshape(rows, -1, self.num_heads, self.head_dim).transpose(1, 2)
            for t in (q, k, v)
        )
        if self.add_zero_attn:
            k, v = (
                torch.cat([t, torch.zeros_like(t[:, :, :1])], dim=2) for t in (k, v)
            )
            extra += 1
        logits = q @ k.transpose(2, 3) / math.sqrt(self.head_dim)
        for mask, shape in (
            (attn_mask, (-1, self.num_heads)),
            (key_padding_mask, (rows, 1, 1)),
        ):
            if mask is not None:
                logits = logits + _additive(mask, shape, extra, logits.dtype)
        attention = self.place(logits.softmax(dim=-1))
        out = self.out_proj((attention @ v).transpose(1, 2).flatten(2))
        if not self.batch_first:
            out = out.transpose(0, 1)
        if not need_weights:
            return out, None
        return out, attention.mean(dim=1) if average_attn_weights else attention


def _additive(
    mask: torch.Tensor, shape: tuple[int, ...], extra: int, dtype: torch.dtype
) -> torch.Tensor:
    """Turn a mask of attention to what is added, with columns that are let through."""
    if mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=dtype).masked_fill(mask, -torch.inf)
    mask = nn.functional.pad(mask, (0, extra))
    if len(shape) == 3:
        return mask.reshape(*shape, mask.shape[-1])
    return mask if mask.ndim == 2 else mask.reshape(*shape, *mask.shape[-2:])


_RECURRENT: dict[str, Any] = {
    "LSTM": torch.lstm,
    "GRU": torch.gru,
    "RNN_TANH": torch.rnn_tanh,
    "RNN_RELU": torch.rnn_relu,
}


class _MaskedRecurrent(nn.RNNBase):
    """Recurrent layers whose dropout, between one layer and the next, is a place."""

    place: Place

    def forward(self, x: Any, hx: Any = None) -> Any:
        """Return the outputs of the last layer and the last states of all."""
        if isinstance(x, PackedSequence):
            raise ValueError(
                "Dropout inside a recurrent layer cannot be sampled on packed "
                "sequences, of which rows do not share the steps. Pad them, or put "
                "torch.nn.Dropout between single layers."
            )
        run, in_pairs = _RECURRENT[self.mode], self.mode == "LSTM"
        directions = 2 if self.bidirectional else 1
        if hx is None:
            rows = x.shape[0 if self.batch_first else 1]
            layers = self.num_layers * directions
            widths = [self.proj_size or self.hidden_size, self.hidden_size]
            hx = [x.new_zeros(layers, rows, w) for w in widths[: 1 + in_pairs]]
        else:
            hx = hx if in_pairs else [hx]
        last = []
        for layer in range(self.num_layers):
            part = slice(layer * directions, (layer + 1) * directions)
            weights = [
                getattr(self, n) for names in self._all_weights[part] for n in names
            ]
            state = [h[part] for h in hx]
            x, *states = run(
                x, state if in_pairs else state[0], weights, self.bias, 1, 0.0, False,
                self.bidirectional, self.batch_first,
            )  # fmt: skip
            last.append(states)
            if layer < self.num_layers - 1:
                x = self.place(x)
        ends = tuple(torch.cat(parts) for parts in zip(*last, strict=True))
        return x, ends if in_pairs else ends[0]


class MaskedLSTM(_MaskedRecurrent, nn.LSTM):
    """An LSTM with its dropout as a place."""


class MaskedGRU(_MaskedRecurrent, nn.GRU):
    """A GRU with its dropout as a place."""


class MaskedRNN(_MaskedRecurrent, nn.RNN):
    """A plain recurrent net with its dropout as a place."""


_WITH_DROPOUT_INSIDE: dict[type, type] = {
    nn.MultiheadAttention: MaskedAttention,
    nn.LSTM: MaskedLSTM,
    nn.GRU: MaskedGRU,
    nn.RNN: MaskedRNN,
}


def _is_dropout(module: nn.Module) -> bool:
    return isinstance(module, _DropoutNd)


def _drops_inside(module: Any) -> bool:
    if isinstance(module, nn.MultiheadAttention):
        return module.dropout > 0
    return (
        isinstance(module, nn.RNNBase) and module.dropout > 0 and module.num_layers > 1
    )


def _open_up(module: Any, name: str) -> None:
    """Make a place of the dropout that a layer of torch has inside it."""
    masked = _WITH_DROPOUT_INSIDE.get(type(module))
    if masked is None:
        raise ValueError(
            f"The module {name!r} ({type(module).__name__}) has dropout inside it, and "
            "changes a layer of torch that has. Masks can stand in for the dropout of "
            "MultiheadAttention, LSTM, GRU and RNN themselves; set its dropout to 0, "
            "or put torch.nn.Dropout modules beside it."
        )
    axis = 0
    if isinstance(module, nn.RNNBase) and not module.batch_first:
        axis = 1
    module.__class__ = masked
    module.place = Place(module.dropout, batch_axis=axis)


def places_of(twin: nn.Module) -> dict[str, tuple[Place, nn.Module]]:
    """Return each place once, with its module, however often that is registered."""
    return {
        name: (vars(module)["place"], module)
        for name, module in twin.named_modules()
        if isinstance(vars(module).get("place"), Place)
    }


def twin_of(module: nn.Module, *, keep_buffers: bool = True) -> Any:
    """Copy the structure of a module, share its tensors, put places for dropouts.

    Without ``keep_buffers`` the buffers are copies.
    """
    compiled = next((m for m in module.modules() if _is_compiled(m)), None)
    if compiled is not None:
        raise ValueError(
            f"{type(compiled).__name__} is a compiled module, whose dropout no mask "
            "can stand in for. Give the net the plain module."
        )
    shared: dict[int, Any] = {id(t): t for t in module.parameters()}
    if keep_buffers:
        shared |= {id(t): t for t in module.buffers()}
    twin = copied(module, shared).eval()
    masked: dict[nn.Module, MaskedDropout] = {}
    parents = list(twin.modules())
    children = [child for parent in parents for child in parent.children()]
    for name, child in list(twin.named_modules()):
        if _drops_inside(child):
            _open_up(child, name)
        if isinstance(child, nn.TransformerEncoderLayer):
            # turns off the fused path of eval mode, which knows no dropout
            child.activation_relu_or_gelu = 0
    for parent in parents:
        for name, child in parent._modules.items():
            if child is not None and _is_dropout(child):
                parent._modules[name] = masked.setdefault(child, MaskedDropout(child))
    for parent in parents:
        if type(parent).forward is nn.Sequential.forward:
            _pass_on_masks(
                parent, [m for c, m in masked.items() if children.count(c) == 1]
            )
    return MaskedDropout(twin) if _is_dropout(twin) else twin


def _is_compiled(module: nn.Module) -> bool:
    is_scripted = isinstance(module, torch.jit.ScriptModule)
    return is_scripted or type(module).__name__ == "OptimizedModule"


def _pass_on_masks(parent: Any, once: list[MaskedDropout]) -> None:
    """Let linear layers take over the masks that come right before them.

    Only where the Sequential itself runs them, so that nothing comes between.
    """
    passing = []
    for place, child in enumerate(list(parent)):
        found = followed_by_linear(parent, place)
        if found is None or not any(child is m for m in once):
            continue
        name, linear = found
        if not linear._forward_hooks and not linear._forward_pre_hooks:
            parent._modules[name] = MaskedLinear(linear, child)
            passing.append(child)
    if passing:
        parent.forward = partial(_run_sequence, parent, passing)


def _run_sequence(parent: Any, passing: list[MaskedDropout], x: Any) -> Any:
    for child in parent:
        if any(child is m for m in passing):
            child.to_linear = True
            x = child(x)
            child.to_linear = False
        else:
            x = child(x)
    return x
