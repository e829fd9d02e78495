"""The alert rules that we give away, in Prometheus' own test runner."""

import re
import subprocess
from pathlib import Path

from tests.ops.test_proxies import OPS

RULES = OPS / "alerts.yml"
CASES = Path(__file__).parent / "alerts_test.yml"


def promtool(*arguments: str | Path) -> None:
    done = subprocess.run(
        ["promtool", *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def alerts() -> dict[str, str]:
    """Return the text of each rule by the name of its alert."""
    _, *rules = re.split(r"^ +- alert: ", RULES.read_text(), flags=re.MULTILINE)
    return {rule.partition("\n")[0]: rule for rule in rules}


def test_prometheus_accepts_the_alert_rules() -> None:
    promtool("check", "rules", RULES)


def test_every_alert_fires_beyond_its_limit_and_not_before() -> None:
    promtool("test", "rules", CASES)
    text = CASES.read_text()
    fires = set(re.findall(r"alertname: (\w+)\n +eval_time: \S+\n +exp_alerts:\n", text))
    does_not_fire = set(re.findall(r"alertname: (\w+), eval_time: \S+ exp_alerts: \[\]", text))
    assert fires == does_not_fire == set(alerts())


def test_every_alert_says_what_is_wrong_and_what_to_do() -> None:
    found = alerts()
    assert found
    for name, rule in found.items():
        for annotation in ("summary", "description"):
            assert re.search(rf'^ +{annotation}: ".+"$', rule, re.MULTILINE), name
