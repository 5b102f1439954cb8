"""Write a TensorFlow checkpoint's tensors to an `.npz`, which `zoo import` reads. Needs tensorflow; Zoo does not.

    python tools/dump_tf_checkpoint.py CHECKPOINT OUT.npz

CHECKPOINT is what TensorFlow calls it: a prefix such as `model.ckpt-1000000` (the files end in `.index` and
`.data-00000-of-00001`), or a folder, whose newest one is taken. Both kinds are read: name-based ones of TensorFlow 1
(`model/g_snh0/Matrix`) and object-based ones of TensorFlow 2
(`generator/dense_layer/layer_with_weights-0/kernel/.ATTRIBUTES/VARIABLE_VALUE`); names are kept as they are.
Optimizer slots are left out unless `--all` is given: a run is imported without them. Text, such as the object graph, is
always left out. Nothing of the checkpoint is run. Any TensorFlow from 1.15 on will do, in an environment of its own.
"""

from __future__ import annotations

import argparse
import os
import re
import sys

SLOTS = re.compile(r"/\.OPTIMIZER_SLOT/|/(Adam|RMSProp|Momentum)(_\d+)?$")


def main() -> int:
    parser = argparse.ArgumentParser(description="Write a TensorFlow checkpoint's tensors to an .npz.")
    parser.add_argument("checkpoint", help="a prefix, such as model.ckpt-1000000, or a folder")
    parser.add_argument("out", help="the .npz to write")
    parser.add_argument("--all", action="store_true", help="optimizer slots too")
    given = parser.parse_args()
    try:
        import numpy as np
        import tensorflow as tf
    except ImportError as error:
        print(f"Error: {error}; install tensorflow in an environment of its own.", file=sys.stderr)
        return 2
    prefix = re.sub(r"\.(index|meta|data-\d+-of-\d+)$", "", given.checkpoint)
    if os.path.isdir(prefix):
        prefix = tf.train.latest_checkpoint(prefix) or prefix
    try:
        reader = tf.train.load_checkpoint(prefix)
    except (ValueError, tf.errors.OpError) as error:
        print(f"Error: {given.checkpoint} cannot be read ({error}).", file=sys.stderr)
        return 2
    arrays = {}
    for name, kind in sorted(reader.get_variable_to_dtype_map().items()):
        if kind.base_dtype == tf.string or (SLOTS.search(name) and not given.all):
            continue
        array = reader.get_tensor(name)
        arrays[name] = array.astype(np.float32) if kind.base_dtype == tf.bfloat16 else array
    temporary = f"{given.out}.tmp"
    with open(temporary, "wb") as file:
        np.savez(file, **arrays)
    os.replace(temporary, given.out)
    print(f"{given.out}: {len(arrays)} tensors, {sum(array.nbytes for array in arrays.values()):,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
