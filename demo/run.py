"""The demonstration:  python -m demo.run  (or `make demo`).

Starts an MQTT broker inside this process, lets the real `pdmu-agent run` hear a recording through the shipped cough and bird models, and
prints each detection as a separate MQTT subscriber received it. Then it compares them with the recording's event list and has
`pdmu-agent analyze` draw the picture.
"""

from __future__ import annotations

import argparse
import csv
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from demo.broker import EmbeddedBroker
from demo.subscriber import Subscriber

HERE = Path(__file__).parent
ROOT = HERE.parent
CONFIG, STREAM, EVENTS = HERE / "agent.toml", HERE / "stream.flac", HERE / "stream.csv"
BUNDLES = tuple(ROOT / "models" / name for name in ("cough.pdmu", "birds.pdmu"))
NODE = "demo"
AGENT = (sys.executable, "-m", "edge_agent.cli")
AGENT_TIMEOUT_S = 150
LAST_MESSAGES_S = 2.0  # how long the subscriber may hear less than the agent says it delivered
MATCH_TOLERANCE_S = 0.5  # a detection this near a sound of the event list belongs to it

INTRODUCTION = """\
This demonstration
  1. starts an MQTT broker inside this process (nothing is installed on your system),
  2. starts `pdmu-agent run` with {config}: it hears {stream}, 85 s of real recordings
     (a kitchen, a tap, an exercise bike, field recordings of birds, with coughs, words, a dog, a baby, sneezes and a rooster laid over),
     through {models},
  3. prints every detection as an independent MQTT subscriber receives it, then compares them with the event list,
  4. draws the recording with its detections into {picture}.
"""


def show(detection: dict[str, Any]) -> None:
    """Print one detection as received."""
    start_s, stop_s = detection["t_start_s"], detection["t_start_s"] + detection["dur_s"]
    model = f"{detection['model']['name']} ({detection['model']['runtime']})"
    scored = f"score {detection['score']:.2f}"
    print(f"  {start_s:6.2f} … {stop_s:5.2f} s   {detection['label']:<22} {scored}   {model:<20} id {detection['id'][:8]}", flush=True)


def run_agent(broker: EmbeddedBroker, out: Path) -> None:
    """Run the agent over the recording until it has delivered everything; its log goes to `out`."""
    environment = os.environ | {
        "PDMU_MQTT__HOST": broker.host,
        "PDMU_MQTT__PORT": str(broker.port),
        "PDMU_AGENT__STATE_DIR": str(out),
    }
    log = out / "agent.log"
    with log.open("w") as file:
        command = [*AGENT, "run", "--config", str(CONFIG)]
        done = subprocess.run(command, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT, timeout=AGENT_TIMEOUT_S)
    if done.returncode != 0:
        raise SystemExit(f"error: pdmu-agent ended with status {done.returncode}; its log, {log}, says:\n{log.read_text()}")


def compare(detections: list[dict[str, Any]]) -> str:
    """Return one line a model: what of the event list was found, and what else was reported."""
    with EVENTS.open() as file:
        events = [(float(row["onset_s"]), float(row["offset_s"]), row["label"]) for row in csv.DictReader(file)]

    def near(d: dict[str, Any], event: tuple[float, float, str]) -> bool:
        onset_s, offset_s, _ = event
        return d["t_start_s"] < offset_s + MATCH_TOLERANCE_S and d["t_start_s"] + d["dur_s"] > onset_s - MATCH_TOLERANCE_S

    coughs = [event for event in events if event[2] == "cough"]
    reported = [d for d in detections if d["label"] == "cough"]
    found = sum(any(near(d, event) for d in reported) for event in coughs)
    false = [d for d in reported if not any(near(d, event) for event in coughs)]
    birds = [d for d in detections if d["label"] != "cough"]
    lines = [f"  cough: {found} of {len(coughs)} coughs of the event list found, {len(false)} false alarms"]
    lines += [f"         false alarm at {d['t_start_s']:.2f} s" for d in false]
    lines.append(f"  birds: {len(birds)} detections; its birds are spinetails, none of the model's species, so 0 would be right:")
    lines.append("         a bird the model does not know may be taken for one it does, as its card, models/birds.md, says")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description="Run recordings through the shipped models and show what an MQTT subscriber receives.")
    parser.add_argument("--out", type=Path, default=ROOT / "demo-out", help="folder for the picture, the agent's log and outbox")
    out = parser.parse_args().out.resolve()
    missing = [str(bundle) for bundle in BUNDLES if not bundle.is_file()]
    if missing:
        print(f"error: {', '.join(missing)}: not found; the checkout is incomplete", file=sys.stderr)
        return 1
    out.mkdir(parents=True, exist_ok=True)
    picture = out / "stream.png"
    names = {"config": CONFIG, "stream": STREAM, "picture": picture}
    models = " and ".join(f"models/{bundle.name} ({bundle.stat().st_size // 1000} kB)" for bundle in BUNDLES)
    print(INTRODUCTION.format(models=models, **{key: os.path.relpath(path) for key, path in names.items()}))

    print("Detections, as received from the broker:")
    began = time.monotonic()
    with EmbeddedBroker() as broker, Subscriber(broker.host, broker.port, NODE, show) as subscriber:
        run_agent(broker, out)
        deadline = time.monotonic() + LAST_MESSAGES_S
        while "offline" not in subscriber.status and time.monotonic() < deadline:
            time.sleep(0.05)
    if not subscriber.detections or "offline" not in subscriber.status:
        log = out / "agent.log"
        heard = f"{len(subscriber.detections)} detections and the status {', '.join(subscriber.status) or 'of nobody'}"
        print(f"error: the subscriber heard {heard}; the agent's log, {log}, says:\n{log.read_text()}", file=sys.stderr)
        return 1
    print(f"\n{len(subscriber.detections)} detections in {time.monotonic() - began:.1f} s; the node said: {', '.join(subscriber.status)}")
    print(compare(subscriber.detections))

    bundles = [argument for bundle in BUNDLES for argument in ("--bundle", str(bundle))]
    subprocess.run([*AGENT, "analyze", STREAM, *bundles, "--picture", picture], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    print(f"\nThe picture: {picture}\nTry your own: .venv-demo/bin/pdmu-agent analyze FILE… --bundle models/cough.pdmu --picture out.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
