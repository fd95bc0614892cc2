"""Reverb without TensorFlow: what a process imports, and that both remain whole for whoever wants
them."""

import pathlib
import subprocess
import sys

import numpy as np
import pytest

from tests.waiting import DEADLINE

pytestmark = pytest.mark.reverb


def output_of(code: str) -> str:
    """What a process of its own prints."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=pathlib.Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_server_and_its_users_load_nothing_of_tensorflow_but_one_library():
    found = output_of(
        "import sys, bmg.launch.runtimes.processes.program, bmg.replay.remote\n"
        "import bmg.launch.runtimes.assembly\n"
        "maps = open('/proc/self/maps').read()\n"
        "print('tensorflow' in sys.modules, 'reverb' in sys.modules)\n"
        "print(sorted({line.split('/')[-1] for line in maps.splitlines() if 'tensorflow' in line}))"
    )
    assert found.splitlines() == ["False False", "['libtensorflow_framework.so.2']"]


def test_a_server_needs_no_jax():
    """Nor does what it is sent: arrays without the classes of their structure."""
    found = output_of(
        "import pickle, sys, numpy as np\n"
        "import bmg.launch.runtimes.processes.nodes\n"
        "from bmg.replay.config import ReplayConfig\n"
        "from bmg.replay.server import Server\n"
        "from bmg.replay.signature import Signature\n"
        "arrays = Signature({'a': np.zeros(3), 'b': np.zeros((), bool)}).arrays\n"
        "server = Server(pickle.loads(pickle.dumps(arrays)), ReplayConfig())\n"
        "print('jax' in sys.modules, 'tensorflow' in sys.modules, server.port > 0)"
    )
    assert found.splitlines()[-1] == "False False True"


_USE_BOTH = """
import numpy as np
import tensorflow as tf
import reverb
assert int(tf.constant(1) + tf.constant(2)) == 3
specs = [tf.TensorSpec([1, 2], tf.float32)]
server = reverb.Server([reverb.Table.queue("a", 3, signature=specs)])
client = reverb.Client(f"localhost:{server.port}")
with client.trajectory_writer(1) as writer:
    writer.append([np.ones(2, np.float32)])
    writer.create_item("a", 1.0, [column[-1:] for column in writer.history])
dataset = reverb.TrajectoryDataset.from_table_signature(client.server_address, "a", 1)
print(next(iter(dataset)).data[0].numpy().tolist())
"""


def test_a_later_import_of_either_is_whole():
    """As by an environment of a user's that is TensorFlow's."""
    assert output_of(f"import bmg.replay.backend\n{_USE_BOTH}").splitlines()[-1] == "[[1.0, 1.0]]"


def test_an_earlier_import_of_either_is_used():
    code = "\nimport bmg.replay.backend\nprint(bmg.replay.backend.pybind is reverb.libpybind)"
    assert output_of(_USE_BOTH + code).splitlines()[-1] == "True"


def test_signatures_are_written_as_reverb_writes_them():
    """The oracle is TensorFlow's own coder of nested structures."""
    leaves = [
        np.zeros(shape, dtype)
        for shape, dtype in [
            ((3, 4), np.uint8), ((), np.int64), ((2,), np.float32), ((1, 0), np.float64),
            ((5,), np.bool_), ((6,), np.float16), ((7,), np.int8), ((8,), np.uint16),
        ]
    ]  # fmt: skip
    described = [(array.shape, array.dtype.name) for array in leaves]
    found = output_of(
        "import numpy as np\n"
        "from bmg.replay.signature import Signature\n"
        "from bmg.replay.specs import decode, encode\n"
        f"leaves = [np.zeros(shape, dtype) for shape, dtype in {described!r}]\n"
        "signature = Signature(leaves)\n"
        "encoded = encode(signature)\n"
        "assert decode(encoded) == (signature.shapes, signature.dtypes)\n"
        "import tensorflow as tf\n"
        "from tensorflow.python.saved_model import nested_structure_coder as coder\n"
        "described = zip(signature.shapes, signature.dtypes, signature.names)\n"
        "specs = [tf.TensorSpec(*each) for each in described]\n"
        "print(encoded == coder.encode_structure(specs), len(encoded.list_value.values))"
    )
    assert found.split() == ["True", str(len(leaves))]


def test_what_no_tensor_holds_is_refused():
    from bmg.replay.signature import Signature
    from bmg.replay.specs import encode

    with pytest.raises(ValueError, match="replay holds numbers and booleans") as caught:
        encode(Signature({"when": np.zeros(3, "datetime64[s]")}))
    assert str(caught.value).startswith("when is of datetime64[s]: ")
