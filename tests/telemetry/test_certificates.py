from __future__ import annotations

from llmgate.telemetry.certificates import DAY, Certificate, Reminders

AT = 1_700_000_000.0


def test_a_certificate_is_warned_of_from_three_weeks_before_its_end_once_a_day() -> None:
    now = AT
    reminders = Reminders(lambda: now)
    shown = [Certificate("server.tls", "", AT + 22 * DAY), Certificate("endpoints.tls", "a", AT + 400 * DAY)]
    assert reminders.due(shown) == []
    now += 2 * DAY
    assert reminders.due(shown) == ["server.tls.certificate expires in 20 days, on 2023-12-06 22:13 UTC"]
    now += DAY / 2
    assert reminders.due(shown) == []
    now += DAY / 2
    assert len(reminders.due(shown)) == 1


def test_one_that_has_ended_is_told_with_what_to_do() -> None:
    [said] = Reminders(lambda: AT).due([Certificate("endpoints.tls", "a", AT - 1)])
    assert said.startswith("a: tls.certificate has expired, on 2023-11-14 22:13 UTC: put a new one")


def test_a_renewed_certificate_is_no_longer_warned_of() -> None:
    reminders = Reminders(lambda: AT)
    assert len(reminders.due([Certificate("admin.tls", "", AT + DAY)])) == 1
    assert reminders.due([Certificate("admin.tls", "", AT + 90 * DAY)]) == []
