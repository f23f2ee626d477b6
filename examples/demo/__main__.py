"""``make demo``: a locker, two nodes and the whole job, with real processes and real PDF files."""

import os
import shutil
import signal
import sys
import tempfile
import threading
from pathlib import Path

from examples.demo.certificates import INCOME
from examples.demo.processes import BIN, DemoFailed
from examples.demo.story import Story, tell


def main() -> int:
    """Run the story; then leave everything running, or with DEMO_ONCE=1 stop it."""
    once = os.environ.get("DEMO_ONCE") == "1"
    folder = Path(tempfile.mkdtemp(prefix="federated-locker-demo-"))
    story = Story(folder, lambda text: print(text, flush=True))
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    try:
        tell(story)
        if once:
            return _end(story, passed=True)
        invite(story)
        stopped.wait()
        return 0
    except DemoFailed as error:
        print(f"    FAILED  {error}", flush=True)
        for log in sorted(folder.glob("*.log")):
            print(f"--- {log.name}\n{log.read_text(errors='replace')[-3000:]}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0
    finally:
        _end(story)


def _end(story: Story, *, passed: bool = False) -> int:
    """Stop what runs, remove the folder, and with everything gone say that all went well."""
    for server in story.servers.values():
        server.stop()
    story.client.close()
    shutil.rmtree(story.folder, ignore_errors=True)
    if passed:
        print(f"demo: {story.passed} checks passed", flush=True)
    return 0


def invite(story: Story) -> None:
    """Say what is running and what to try."""
    edistrict = story.servers["edistrict"]
    print(
        f"""
{story.passed} checks passed. Everything is still running; press Ctrl-C to stop it.

  Locker             {story.locker.url}/v1/openapi.json
  eDistrict's node   {edistrict.url}/v1/ui
  University's node  {story.servers["university"].url}/v1/ui

Try, in another terminal:

  # Anita's documents
  curl -H 'Authorization: Bearer {story.tokens["resident"]}' {story.locker.url}/v1/residents/me/documents

  # her income certificate, as the department has it
  curl -o income.pdf -H 'Authorization: Bearer {story.tokens["resident"]}' {story.locker.url}/v1/residents/me/documents/{INCOME[0].uri}

  # who has read it (the department's auditor)
  curl -H 'Authorization: Bearer {story.tokens["edistrict auditor"]}' '{edistrict.url}/v1/access-log?uri={INCOME[0].uri}'

  # who tried to and was refused at the locker (the locker's auditor)
  curl -H 'Authorization: Bearer {story.tokens["locker auditor"]}' '{story.locker.url}/v1/attempts?outcome=refused'

  # the department's log from its own machine
  {BIN / "locker-node"} log query --uri {INCOME[0].uri} --folder {edistrict.folder}
""",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
