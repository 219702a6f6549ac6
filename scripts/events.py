"""Reads the event streams that `mosbuild build --events` writes, for the checks of scripts/.

    events.py targets FILE      NAME OUTCOME of every target, sorted
    events.py steps FILE        TARGET:STEP of every step that ran, sorted
    events.py millis FILE T:S   how long that step took
    events.py items FILE        TARGET:STEP ITEM of every file that a step worked on by itself, sorted
    events.py own FILE T:S…     milliseconds of the run that none of these steps was running
"""
import json
import sys

command, path, *names = sys.argv[1:]
events = [json.loads(line) for line in open(path)]


def step(event):
    return f'{event["target"]}:{event["step"]}'


def of(kind):
    return [event for event in events if event["event"] == kind]


if command == "targets":
    for event in sorted(of("target_finished"), key=lambda event: event["target"]):
        print(event["target"], event["outcome"])
elif command == "steps":
    print("\n".join(sorted(step(event) for event in of("step_started"))))
elif command == "items":
    print("\n".join(sorted(f'{step(event)} {event["item"]}' for event in of("item_finished"))))
elif command == "millis":
    print(sum(event["millis"] for event in of("step_finished") if step(event) in names))
elif command == "own":
    inside = sum(event["millis"] for event in of("step_finished") if step(event) in names)
    print(of("run_finished")[-1]["millis"] - inside)
else:
    sys.exit(__doc__)
