"""Every attack on an RPC worker that we know of. The guarded tests and the run on a stock server share this table."""

from __future__ import annotations

import attack_conduct
import attack_frames
import attack_ops
from attack_kinds import Attack, Conduct

# The guard has a word for each of these.
ATTACKS: tuple[Attack, ...] = (*attack_frames.ALL, *attack_ops.ALL)
# These it passes: the worker dies of them.
VALUES: tuple[Attack, ...] = attack_ops.VALUES
CONDUCTS: tuple[Conduct, ...] = attack_conduct.ALL

ALL: tuple[Attack | Conduct, ...] = (*CONDUCTS, *ATTACKS, *VALUES)
