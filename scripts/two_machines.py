"""Two commands, each on a machine of its own as far as the network is concerned: two network
namespaces with one cable between them, which can be made slow.

    python scripts/two_machines.py --after runs/catch/join.json \
        --link "tbf rate 1gbit burst 128kb latency 50ms" \
        "bmg train --game catch --gate-port 8500" \
        "bmg actors --learner 10.77.0.1:8500 --join runs/catch/join.json"

The first machine is at 10.77.0.1, the second at 10.77.0.2. The second command begins as soon as the
file `--after` is there. `--link` is how each end of the cable sends, in the words of tc; with a
kernel that has netem also "netem delay 5ms rate 1gbit". The last line is JSON: the exit codes and
the bytes that the cable carried to the second machine and from it, or why this machine cannot do
it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import pathlib
import shlex
import shutil
import subprocess
import sys
import time

from bmg.launch import isolation
from bmg.launch.hosts import local_pod
from bmg.storage.processes import PROGRAM, child_environment


def main() -> int:
    """Plugs the machines in, and stays until their commands have ended; the first error code."""
    given = _arguments()
    if why_not := isolation.enter([sys.executable, *sys.orig_argv[1:]]):
        return _unavailable(why_not)
    networks = local_pod._networks(2, "")
    if not networks.interfaces:
        return _unavailable("no virtual network devices")
    for name in ("port0", "port1") if given.link else ():
        words = ["tc", "qdisc", "add", "dev", name, "root", *shlex.split(given.link)]
        done = subprocess.run(words, capture_output=True, text=True)
        if done.returncode:
            return _unavailable(" ".join(done.stderr.split()))
    after = ["", given.after]
    with contextlib.ExitStack() as stack:
        processes = []
        for index, command in enumerate(given.commands):
            while after[index] and not pathlib.Path(after[index]).exists():
                if any(process.poll() is not None for process in processes):
                    return _unavailable("the first command has ended")
                time.sleep(0.1)
            interface, address = networks.interfaces[index], networks.addresses[index]
            machine = [sys.executable, "-m", "bmg.launch.hosts.local_host", interface, address, ""]
            program, *arguments = shlex.split(command)
            words = [*(PROGRAM if program == "bmg" else [shutil.which(program)]), *arguments]
            processes.append(
                subprocess.Popen([*machine, *words], stdin=subprocess.PIPE, env=child_environment())
            )
            stack.callback(_end, processes[-1])
            local_pod._await_namespace(processes[-1])
            local_pod._plug_in(interface, processes[-1].pid)
            processes[-1].stdin.close()
        carried = 0, 0
        while any(process.poll() is None for process in processes):
            carried = _carried("port1") or carried  # the cable goes with its machine
            time.sleep(0.1)
        codes = [process.returncode for process in processes]
    print(json.dumps({"codes": codes, "to_second": carried[0], "from_second": carried[1]}))
    return next((code for code in codes if code), 0)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--link", default="", help="such as 'netem delay 5ms rate 1gbit'")
    parser.add_argument("--after", default="", help="a file that the second command waits for")
    parser.add_argument("commands", nargs=2)
    return parser.parse_args()


def _unavailable(why: str) -> int:
    print(json.dumps({"unavailable": why}))
    return 3


def _end(process: subprocess.Popen) -> None:
    process.terminate()
    process.wait()


def _carried(name: str) -> tuple[int, int] | None:
    """Bytes that an interface has sent and received; None where it is gone."""
    for line in pathlib.Path("/proc/self/net/dev").read_text().splitlines():
        interface, _, numbers = line.partition(":")
        if interface.strip() == name:
            fields = numbers.split()
            return int(fields[8]), int(fields[0])
    return None


if __name__ == "__main__":
    sys.exit(main())
