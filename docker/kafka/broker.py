#!/usr/bin/env python3
"""A single Apache Kafka broker (KRaft, no ZooKeeper) for tests and for trying things out on this machine.

    python docker/kafka/broker.py fetch           download the broker's jars (Maven, Java 17 or newer)
    python docker/kafka/broker.py start FOLDER    start a broker that keeps everything in FOLDER, print its URL
    python docker/kafka/broker.py stop FOLDER     stop it; "start" with the same folder brings it back as it was

`start` prints `kafka:127.0.0.1:PORT`, which is what `--log` settings and VENICE_TEST_KAFKA take. The process id is in
FOLDER/broker.pid, the broker's output in FOLDER/broker.log. A broker that was killed is started again with `start`.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, suppress
from pathlib import Path

HERE = Path(__file__).resolve().parent
JARS = HERE / "target" / "jars"
CLASSES = HERE / "target" / "classes.jsa"
QUICK_START = ["-XX:TieredStopAtLevel=1"]  # Half the start, at the price of a slower broker later.
STARTED = "Kafka Server started"
PORTS = range(32_100, 32_768)
START_S = 240.0  # A busy machine takes its time to start a JVM.
STOP_S = 30.0

# Fixed, so that a folder formatted once is recognised ever after; nothing here is shared with another cluster.
CLUSTER_ID = "dmVuaWNlLXRlc3QtMDAwMQ"

PROPERTIES = """\
process.roles=broker,controller
node.id=1
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}
controller.listener.names=CONTROLLER
controller.quorum.voters=1@127.0.0.1:{controller_port}
log.dirs={data}
# Venice creates its topics itself; a topic that comes back because somebody still asks for it would be a wrong one.
auto.create.topics.enable=false
log.retention.ms=-1
message.max.bytes=18874368
replica.fetch.max.bytes=18874368
# A broker that was killed is let in again once its old session has ended.
broker.session.timeout.ms=2000
broker.heartbeat.interval.ms=500
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
"""


class Refused(Exception):
    """What keeps the command from working, in one line."""


def fetch() -> None:
    """Download the jars, unless they are there. Who comes while another does it waits for them."""
    with (HERE / "pom.xml").open() as pom:
        fcntl.flock(pom, fcntl.LOCK_EX)
        if not jars_are_there():
            if shutil.which("mvn") is None or shutil.which("java") is None:
                raise Refused("Maven and Java 17 are needed: apt-get install maven openjdk-17-jre-headless")
            done = subprocess.run(["mvn", "-q", "-B", "-f", str(HERE / "pom.xml"), "package"], check=False)
            if done.returncode or not jars_are_there():
                raise Refused("Maven could not fetch the broker's jars: see what it printed above")
        keep_classes()
    print(JARS)


def keep_classes() -> None:
    """Have a broker leave behind what the JVM made of its classes: with that the next ones start in half the time."""
    if CLASSES.exists() or shutil.which("java") is None:
        return
    unfinished = CLASSES.with_name("unfinished.jsa")
    # Who starts a broker is told what keeps it from starting; here it is no matter.
    with tempfile.TemporaryDirectory() as name, suppress(Refused):
        folder = Path(name)
        start(folder, None, [*QUICK_START, f"-XX:ArchiveClassesAtExit={unfinished}"])
        stop(folder)
        # Half a file, of a full disk for instance, would take every broker down. This reads it whole.
        if java(folder, ["-Xshare:on", f"-XX:SharedArchiveFile={unfinished}", "-XX:+VerifySharedSpaces"], "-version").wait() == 0:
            unfinished.rename(CLASSES)


def jars_are_there() -> bool:
    return any(JARS.glob("kafka-server-[0-9]*.jar")) and any(JARS.glob("log4j-slf4j-impl-*.jar"))


def start(folder: Path, port: int | None, options: list[str]) -> str:
    """Start the broker of `folder` and return its URL once it answers. A running one is left alone."""
    if shutil.which("java") is None:
        raise Refused("Java 17 is needed: apt-get install openjdk-17-jre-headless")
    if not jars_are_there():
        raise Refused("the broker's jars are missing: python docker/kafka/broker.py fetch")
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    properties = folder / "server.properties"
    with ExitStack() as kept:
        if not properties.exists():
            own, controller_port = keep_ports(kept, 2)
            if port == controller_port:
                controller_port = own
            unfinished = folder / "unfinished.properties"
            unfinished.write_text(PROPERTIES.format(port=port or own, controller_port=controller_port, data=folder / "data"))
            tool = ("kafka.tools.StorageTool", "format", "--ignore-formatted", "-t", CLUSTER_ID, "-c", str(unfinished))
            if java(folder, QUICK_START, *tool).wait() != 0:
                raise Refused(f"the broker's folder could not be made: see {folder / 'broker.log'}")
            unfinished.rename(properties)
        if running(folder) is None:
            run(folder, options)
    return f"kafka:127.0.0.1:{port_of(properties)}"


def run(folder: Path, options: list[str]) -> None:
    starts = count_starts(folder)
    process = java(folder, options, "kafka.Kafka", str(folder / "server.properties"))
    (folder / "broker.pid").write_text(str(process.pid))
    try:
        wait_until_started(folder, process, starts)
    except Refused as error:
        # The test that wanted it shows this, and nobody the folder.
        lines = (folder / "broker.log").read_text(errors="replace").splitlines()[-5:]
        raise Refused("\n".join([str(error), *lines])) from error


def stop(folder: Path) -> None:
    """Stop the broker of `folder`, by force if it does not go; one that does not run is no error."""
    process = running(folder)
    if process is None:
        return
    os.kill(process, signal.SIGCONT)
    os.kill(process, signal.SIGTERM)
    deadline = time.monotonic() + STOP_S
    while running(folder) is not None and time.monotonic() < deadline:
        time.sleep(0.05)  # it is no child of this process, which therefore cannot wait for it
    if running(folder) is not None:
        os.kill(process, signal.SIGKILL)
    (folder / "broker.pid").unlink(missing_ok=True)


def running(folder: Path) -> int | None:
    """Process id of the folder's broker, if it runs."""
    try:
        process = int((folder / "broker.pid").read_text())
        os.kill(process, 0)
    except (OSError, ValueError):
        return None
    # A process that ended but was not waited for still has its id, and an old id may be somebody else's by now.
    return process if "kafka.Kafka" in command_of(process) else None


def command_of(process: int) -> str:
    """Command line of a process; "" of one that ended and was not waited for, and of none."""
    if Path("/proc/self/cmdline").exists():  # Small systems have no ps.
        try:
            return Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            return ""
    told = subprocess.run(["ps", "-ww", "-o", "state=,args=", "-p", str(process)], capture_output=True, text=True, check=False).stdout
    return "" if told.startswith("Z") else told


def java(folder: Path, options: list[str], *arguments: str) -> subprocess.Popen[bytes]:
    kept = [f"-XX:SharedArchiveFile={CLASSES}"] if CLASSES.exists() else []
    common = [*kept, "-Xms256m", "-Xmx768m", "-XX:+UseSerialGC", f"-Dlog4j2.configurationFile={HERE / 'log4j2.properties'}"]
    with (folder / "broker.log").open("ab") as output:
        return subprocess.Popen(
            ["java", *common, *options, "-cp", f"{JARS}/*", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


def count_starts(folder: Path) -> int:
    return (folder / "broker.log").read_text(errors="replace").count(STARTED)


def wait_until_started(folder: Path, process: subprocess.Popen[bytes], starts: int) -> None:
    log = folder / "broker.log"
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if count_starts(folder) > starts:
            return
        if process.poll() is not None:
            raise Refused(f"the broker ended at once: see {log}")
        time.sleep(0.05)  # that it has started stands in its log only
    process.kill()
    raise Refused(f"the broker did not start within {START_S:.0f} s: see {log}")


def port_of(properties: Path) -> int:
    (listeners,) = (line for line in properties.read_text().splitlines() if line.startswith("listeners="))
    return int(listeners.split(",")[0].rpartition(":")[2])


def keep_ports(kept: ExitStack, count: int) -> list[int]:
    """Ports that nobody listens on, kept for the JVM until `kept` is closed: it listens seconds later, and another broker that starts
    meanwhile must not choose them too. They lie below those that the kernel takes for outgoing connections."""
    locks = kept.enter_context((Path(tempfile.gettempdir()) / f"venice-broker-ports-{os.getuid()}").open("w"))
    found: list[int] = []
    for port in random.sample(PORTS, len(PORTS)):
        with socket.socket() as probe, suppress(OSError):
            fcntl.lockf(locks, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
            probe.bind(("127.0.0.1", port))
            found.append(port)
        if len(found) == count:
            return found
    raise Refused(f"no {count} ports from {PORTS[0]} to {PORTS[-1]} are free")


def main() -> int:
    parser = argparse.ArgumentParser(description="A single Apache Kafka broker for tests.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("fetch", help="download the broker's jars")
    starting = commands.add_parser("start", help="start the broker of a folder and print its URL")
    starting.add_argument("folder", type=Path)
    starting.add_argument("--port", type=int, help="port of a new broker (default: a free one)")
    starting.add_argument("--full-speed", action="store_true", help="let the JVM optimise fully: starts slower, for benchmarks")
    commands.add_parser("stop", help="stop the broker of a folder").add_argument("folder", type=Path)
    arguments = parser.parse_args()
    try:
        if arguments.command == "fetch":
            fetch()
        elif arguments.command == "start":
            print(start(arguments.folder, arguments.port, [] if arguments.full_speed else QUICK_START))
        else:
            stop(arguments.folder)
    except Refused as refused:
        print(refused, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
