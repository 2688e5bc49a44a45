//! Schedules as cron writes them: five fields, `@daily` and its like, or `@every 1h30m`
//! (github.com/robfig/cron, which upstream uses). Pure: the caller says what time it is.

use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, ToSpan};

/// How many years are searched for a time that matches: every day of the month and of the week meet
/// within 28 years, but upstream gives up after five.
const MAX_YEARS: i16 = 5;
/// The shortest `@every`.
const LEAST_EVERY: SignedDuration = SignedDuration::from_secs(1);

/// A schedule that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule(Form);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Form {
    /// One bit for each allowed value.
    Fields {
        minutes: u64,
        hours: u64,
        days: u64,
        months: u64,
        weekdays: u64,
        any_day: bool,
        any_weekday: bool,
    },
    /// Whole seconds.
    Every(SignedDuration),
}

/// A field: what it is called, its least and greatest value, and the names that values may be written
/// with.
struct Field {
    title: &'static str,
    least: u32,
    most: u32,
    names: &'static str,
    /// Its values, for people.
    range: &'static str,
}

const MINUTES: Field = Field { title: "minute", least: 0, most: 59, names: "", range: "0-59" };
const HOURS: Field = Field { title: "hour", least: 0, most: 23, names: "", range: "0-23" };
const DAYS: Field =
    Field { title: "day of the month", least: 1, most: 31, names: "", range: "1-31" };
const MONTHS: Field = Field {
    title: "month",
    least: 1,
    most: 12,
    names: "JANFEBMARAPRMAYJUNJULAUGSEPOCTNOVDEC",
    range: "1-12 or JAN-DEC",
};
/// From Sunday on; no second name for it.
const WEEKDAYS: Field = Field {
    title: "day of the week",
    least: 0,
    most: 6,
    names: "SUNMONTUEWEDTHUFRISAT",
    range: "0-6 or SUN-SAT, where Sunday is 0",
};
/// Upstream's words: it parses such a schedule, and refuses it.
const ZONE: &str = "cannot use TZ or CRON_TZ in schedule, use timeZone field instead";

const WORDS: &[(&str, &str)] = &[
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
    ("@monthly", "0 0 1 * *"),
    ("@weekly", "0 0 * * 0"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@hourly", "0 * * * *"),
];

impl Schedule {
    /// What is no schedule is told of, with the field that is wrong and what it may be.
    pub fn parse(text: &str) -> Result<Schedule, String> {
        if text.contains("TZ") {
            return Err(ZONE.into());
        }
        if let Some(every) = text.strip_prefix("@every ") {
            let every = every.parse::<SignedDuration>();
            let every = every.map_err(|_| "@every needs a duration, such as 1h30m".to_string())?;
            let every = SignedDuration::from_secs(every.as_secs()).max(LEAST_EVERY);
            return Ok(Schedule(Form::Every(every)));
        }
        let word = WORDS.iter().find(|(word, _)| *word == text);
        if word.is_none() && text.starts_with('@') {
            let words: Vec<&str> = WORDS.iter().map(|(word, _)| *word).collect();
            return Err(format!("must be one of {}, or @every DURATION", words.join(", ")));
        }
        let fields: Vec<&str> =
            word.map_or(text, |(_, fields)| fields).split_whitespace().collect();
        let [minutes, hours, days, months, weekdays] = fields[..] else {
            let wanted = "minute, hour, day of the month, month and day of the week";
            return Err(format!("must have five fields ({wanted}), and has {}", fields.len()));
        };
        Ok(Schedule(Form::Fields {
            minutes: bits(minutes, &MINUTES)?,
            hours: bits(hours, &HOURS)?,
            days: bits(days, &DAYS)?,
            months: bits(months, &MONTHS)?,
            weekdays: bits(weekdays, &WEEKDAYS)?,
            any_day: is_any(days),
            any_weekday: is_any(weekdays),
        }))
    }

    /// The first time after `time` that the schedule has, on the clock of a zone. `None` if there
    /// is none within five years.
    pub fn next_after(&self, time: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        if let Form::Every(every) = self.0 {
            let next = time.checked_add(every).ok()?;
            return Timestamp::from_second(next.as_second()).ok();
        }
        let local = zone.to_datetime(time);
        let last_year = local.year() + MAX_YEARS;
        let mut date = local.date();
        let mut first_hour = local.hour();
        while date.year() <= last_year {
            if self.has_date(date) {
                for hour in first_hour..24 {
                    for minute in 0..60 {
                        if !self.has_time(hour, minute) {
                            continue;
                        }
                        let found = resolve(date.at(hour, minute, 0, 0), zone)?;
                        if found > time {
                            return Some(found);
                        }
                    }
                }
            }
            first_hour = 0;
            date = self.later_date(date)?;
        }
        None
    }

    /// The last time after `since` and not after `now`, with whether more than `many` came due.
    pub fn last_due(
        &self,
        since: Timestamp,
        now: Timestamp,
        zone: &TimeZone,
        many: usize,
    ) -> Option<(Timestamp, bool)> {
        let next = |time| self.next_after(time, zone).filter(|next| *next <= now);
        let mut found = next(since)?;
        if let Form::Every(every) = self.0 {
            let gaps = now.duration_since(found).as_secs() / every.as_secs();
            let skipped = SignedDuration::from_secs(gaps.checked_mul(every.as_secs())?);
            let many = usize::try_from(gaps).is_ok_and(|gaps| gaps + 1 > many);
            return Some((found.checked_add(skipped).ok()?, many));
        }
        let mut missed = 1;
        while let Some(later) = next(found).filter(|_| missed <= many) {
            (found, missed) = (later, missed + 1);
        }
        // Halves what is left, as there may be millions: none is due after `late`.
        let mut late = now;
        while late.duration_since(found).as_secs() > 0 {
            let middle = found.checked_add(late.duration_since(found) / 2).ok()?;
            match next(middle).filter(|next| *next > found) {
                Some(later) => found = later,
                None => late = middle,
            }
        }
        Some((found, missed > many))
    }

    /// The next date that may match: a month that does not is passed over at once.
    fn later_date(&self, date: Date) -> Option<Date> {
        let next = date.checked_add(1.day()).ok()?;
        let Form::Fields { months, .. } = self.0 else { return Some(next) };
        if has(months, next.month()) {
            return Some(next);
        }
        next.first_of_month().checked_add(1.month()).ok()
    }

    fn has_date(&self, date: Date) -> bool {
        let Form::Fields { days, months, weekdays, any_day, any_weekday, .. } = self.0 else {
            return false;
        };
        let weekday = date.weekday().to_sunday_zero_offset();
        let (day, weekday) = (has(days, date.day()), has(weekdays, weekday));
        // Where both are given, either will do.
        let matches = if any_day || any_weekday { day && weekday } else { day || weekday };
        has(months, date.month()) && matches
    }

    fn has_time(&self, hour: i8, minute: i8) -> bool {
        let Form::Fields { minutes, hours, .. } = self.0 else { return false };
        has(hours, hour) && has(minutes, minute)
    }
}

/// The moment of a local time; one that a clock skips is told after the gap, one that comes twice is
/// the first of both.
fn resolve(local: DateTime, zone: &TimeZone) -> Option<Timestamp> {
    zone.to_ambiguous_zoned(local).compatible().ok().map(|zoned| zoned.timestamp())
}

fn has(bits: u64, value: i8) -> bool {
    u32::try_from(value).is_ok_and(|value| bits >> value & 1 == 1)
}

/// Leaves the day to the other of both fields.
fn is_any(field: &str) -> bool {
    field.split(',').any(|part| matches!(part, "*" | "?" | "*/1" | "?/1"))
}

/// `*`, `?`, `5`, `1-5`, `*/10`, `1-30/5`, `5/15`, `MON-FRI`, and lists of them.
fn bits(text: &str, field: &Field) -> Result<u64, String> {
    let mut all = 0;
    for part in text.split(',') {
        all |= part_bits(part, field).ok_or_else(|| {
            let Field { title, range, .. } = field;
            format!("the {title} {part:?} is not valid: values are {range}")
        })?;
    }
    Ok(all)
}

fn part_bits(part: &str, field: &Field) -> Option<u64> {
    let Field { least, most, names, .. } = field;
    let number = |text: &str| match text.parse::<u32>() {
        Ok(number) => Some(number).filter(|n| (least..=most).contains(&n)),
        Err(_) => {
            let text = text.to_uppercase();
            let at = names.find(&text).filter(|at| text.len() == 3 && at % 3 == 0)?;
            u32::try_from(at / 3).ok().map(|n| n + least)
        }
    };
    let (range, step) = match part.split_once('/') {
        Some((range, step)) => (range, Some(step.parse::<u32>().ok().filter(|step| *step > 0)?)),
        None => (part, None),
    };
    let (first, last) = match (range, range.split_once('-')) {
        ("*" | "?", _) => (*least, *most),
        (_, Some((first, last))) => (number(first)?, number(last)?),
        // `5/15` goes on from 5.
        (one, None) => (number(one)?, if step.is_some() { *most } else { number(one)? }),
    };
    if first > last {
        return None;
    }
    let step = usize::try_from(step.unwrap_or(1)).ok()?;
    Some((first..=last).step_by(step).fold(0, |bits, value| bits | 1 << value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn last(schedule: &str, since: &str, now: &str) -> String {
        let schedule = Schedule::parse(schedule).unwrap();
        let (since, now) = (since.parse().unwrap(), now.parse().unwrap());
        let found = schedule.last_due(since, now, &TimeZone::UTC, 100);
        found
            .map(|(time, many)| format!("{time}{}", if many { " of many" } else { "" }))
            .unwrap_or_default()
    }

    #[test]
    fn the_last_time_that_is_due_is_found() {
        let start = "2026-01-01T00:00:00Z";
        for (schedule, now, wanted) in [
            ("* * * * *", "2026-01-01T00:00:59Z", ""),
            ("* * * * *", "2026-01-01T00:01:00Z", "2026-01-01T00:01:00Z"),
            ("* * * * *", "2026-01-01T01:40:30Z", "2026-01-01T01:40:00Z"),
            ("* * * * *", "2026-01-01T01:41:30Z", "2026-01-01T01:41:00Z of many"),
            ("* * * * *", "2027-06-01T08:09:10.5Z", "2027-06-01T08:09:00Z of many"),
            ("0 9 * * MON-FRI", "2028-01-02T08:00:00Z", "2027-12-31T09:00:00Z of many"),
            ("* * * 1 *", "2026-12-01T00:00:00Z", "2026-01-31T23:59:00Z of many"),
            ("@every 1h30m", "2026-01-01T04:00:00Z", "2026-01-01T03:00:00Z"),
        ] {
            assert_eq!(last(schedule, start, now), wanted, "{schedule} until {now}");
        }
    }

    fn next(schedule: &str, time: &str, zone: &str) -> String {
        let schedule = Schedule::parse(schedule).unwrap();
        let found = schedule.next_after(time.parse().unwrap(), &TimeZone::get(zone).unwrap());
        found.map(|time| time.to_string()).unwrap_or_default()
    }

    #[test]
    fn schedules_are_read() {
        for good in [
            "* * * * *",
            "*/5 0 1 JAN mon-fri",
            "0 0 1,15 * ?",
            "@daily",
            "@every 1h30m",
            "5/15 * * * *",
            "0 0 * * 0",
        ] {
            assert!(Schedule::parse(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "* * * *",
            "60 * * * *",
            "5-1 * * * *",
            "*/0 * * * *",
            "@often",
            "@every soon",
            "x * * * *",
            "* * 0 * *",
            "* * * * 7",
        ] {
            assert!(Schedule::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_no_schedule_is_told_with_its_field() {
        for (bad, told) in [
            ("61 * * * *", "the minute \"61\" is not valid: values are 0-59"),
            ("0 24 * * *", "the hour \"24\" is not valid: values are 0-23"),
            ("0 0 1,32 * *", "the day of the month \"32\" is not valid: values are 1-31"),
            ("0 0 1 XXX *", "the month \"XXX\" is not valid: values are 1-12 or JAN-DEC"),
            (
                "* * * * 7",
                "the day of the week \"7\" is not valid: values are 0-6 or SUN-SAT, where Sunday is 0",
            ),
            ("TZ=UTC * * * * *", ZONE),
            ("CRON_TZ=UTC * * * * *", ZONE),
            ("@every soon", "@every needs a duration, such as 1h30m"),
        ] {
            assert_eq!(Schedule::parse(bad).unwrap_err(), told, "{bad}");
        }
        assert!(Schedule::parse("* * * *").unwrap_err().ends_with(", and has 4"));
        assert!(Schedule::parse("@often").unwrap_err().starts_with("must be one of @yearly, "));
    }

    #[test]
    fn the_next_time_is_found() {
        for (schedule, time, wanted) in [
            ("* * * * *", "2026-01-01T00:00:30Z", "2026-01-01T00:01:00Z"),
            ("* * * * *", "2026-01-01T00:01:00Z", "2026-01-01T00:02:00Z"),
            ("*/15 2 * * *", "2026-01-01T02:46:00Z", "2026-01-02T02:00:00Z"),
            ("0 0 29 2 *", "2026-01-01T00:00:00Z", "2028-02-29T00:00:00Z"),
            ("0 0 31 2 *", "2026-01-01T00:00:00Z", ""),
            // 2026-01-01 is a Thursday.
            ("0 9 * * MON-FRI", "2026-01-02T10:00:00Z", "2026-01-05T09:00:00Z"),
            ("0 0 * * 0", "2026-01-01T00:00:00Z", "2026-01-04T00:00:00Z"),
            // The 13th, or a Friday.
            ("0 0 13 * FRI", "2026-01-03T00:00:00Z", "2026-01-09T00:00:00Z"),
            ("0 0 13 * ?", "2026-01-03T00:00:00Z", "2026-01-13T00:00:00Z"),
            ("@monthly", "2026-12-05T00:00:00Z", "2027-01-01T00:00:00Z"),
            ("@every 1h30m", "2026-01-01T00:00:00.5Z", "2026-01-01T01:30:00Z"),
        ] {
            assert_eq!(next(schedule, time, "UTC"), wanted, "{schedule} after {time}");
        }
    }

    #[test]
    fn clocks_of_zones_are_followed() {
        let berlin = "Europe/Berlin";
        assert_eq!(next("0 0 * * *", "2026-01-01T12:00:00Z", berlin), "2026-01-01T23:00:00Z");
        // 02:30 does not exist on that day.
        assert_eq!(next("30 2 * * *", "2026-03-28T12:00:00Z", berlin), "2026-03-29T01:30:00Z");
        // It comes twice: the first one, and then that of the next day.
        assert_eq!(next("30 2 * * *", "2026-10-24T12:00:00Z", berlin), "2026-10-25T00:30:00Z");
        assert_eq!(next("30 2 * * *", "2026-10-25T00:30:00Z", berlin), "2026-10-26T01:30:00Z");
    }
}
