//! Timestamps and durations.

use jiff::tz::{Offset, TimeZone};
use jiff::{Timestamp, Zoned};

use crate::api::cel::eval::{Error, no_overload};
use crate::api::cel::functions::{Cost, Row, native, row};
use crate::api::cel::value::Value;

const SECOND: i64 = 1_000_000_000;
/// Units of Go's durations in nanoseconds, longer names first.
const UNITS: &[(&str, i64)] = &[
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("ms", 1_000_000),
    ("s", SECOND),
    ("m", 60 * SECOND),
    ("h", 3600 * SECOND),
];

/// A part of a date or time.
type Part = fn(&Zoned) -> i64;

macro_rules! getter {
    ($name:literal, $part:expr) => {
        [
            row(concat!("(timestamp).", $name, "() -> int"), Cost::One, |_, a| part(a, $part)),
            row(concat!("(timestamp).", $name, "(string) -> int"), Cost::One, |_, a| {
                part(a, $part)
            }),
        ]
    };
}

pub fn rows() -> Vec<Row> {
    let mut rows = vec![
        row("timestamp(timestamp) -> timestamp", Cost::One, native!([a] => Ok(a.clone()))),
        row(
            "timestamp(int) -> timestamp",
            Cost::One,
            native!([Value::Int(a)] => {
                Timestamp::from_second(*a).map(Value::Timestamp).map_err(|_| beyond())
            }),
        ),
        row(
            "timestamp(string) -> timestamp",
            Cost::One,
            native!([Value::String(a)] => {
                parse_timestamp(a).map(Value::Timestamp).map_err(Error::new)
            }),
        ),
        row("duration(duration) -> duration", Cost::One, native!([a] => Ok(a.clone()))),
        row(
            "duration(int) -> duration",
            Cost::One,
            native!([Value::Int(a)] => {
                Ok(Value::Duration(*a))
            }),
        ),
        row(
            "duration(string) -> duration",
            Cost::Text,
            native!([Value::String(a)] => {
                parse_duration(a).map(Value::Duration).map_err(Error::new)
            }),
        ),
        row(
            "_+_(timestamp, duration) -> timestamp",
            Cost::One,
            native!(
                [Value::Timestamp(a), Value::Duration(b)] => moved(*a, i128::from(*b))
            ),
        ),
        row(
            "_+_(duration, timestamp) -> timestamp",
            Cost::One,
            native!(
                [Value::Duration(a), Value::Timestamp(b)] => moved(*b, i128::from(*a))
            ),
        ),
        row(
            "_-_(timestamp, duration) -> timestamp",
            Cost::One,
            native!(
                [Value::Timestamp(a), Value::Duration(b)] => moved(*a, -i128::from(*b))
            ),
        ),
        row(
            "_-_(timestamp, timestamp) -> duration",
            Cost::One,
            native!(
                [Value::Timestamp(a), Value::Timestamp(b)] => {
                    long(a.as_nanosecond() - b.as_nanosecond())
                }
            ),
        ),
        row(
            "_+_(duration, duration) -> duration",
            Cost::One,
            native!(
                [Value::Duration(a), Value::Duration(b)] => long(i128::from(*a) + i128::from(*b))
            ),
        ),
        row(
            "_-_(duration, duration) -> duration",
            Cost::One,
            native!(
                [Value::Duration(a), Value::Duration(b)] => long(i128::from(*a) - i128::from(*b))
            ),
        ),
        row(
            "-_(duration) -> duration",
            Cost::One,
            native!([Value::Duration(a)] => {
                long(-i128::from(*a))
            }),
        ),
        row("(duration).getHours() -> int", Cost::One, |_, a| units(a, 3600 * SECOND, false)),
        row("(duration).getMinutes() -> int", Cost::One, |_, a| units(a, 60 * SECOND, false)),
        row("(duration).getSeconds() -> int", Cost::One, |_, a| units(a, SECOND, false)),
        row("(duration).getMilliseconds() -> int", Cost::One, |_, a| units(a, 1_000_000, true)),
    ];
    rows.extend(getter!("getFullYear", |t: &Zoned| t.year().into()));
    rows.extend(getter!("getMonth", |t: &Zoned| i64::from(t.month()) - 1));
    rows.extend(getter!("getDayOfYear", |t: &Zoned| i64::from(t.day_of_year()) - 1));
    rows.extend(getter!("getDayOfMonth", |t: &Zoned| i64::from(t.day()) - 1));
    rows.extend(getter!("getDate", |t: &Zoned| t.day().into()));
    rows.extend(getter!("getDayOfWeek", |t: &Zoned| {
        t.weekday().to_sunday_zero_offset().into()
    }));
    rows.extend(getter!("getHours", |t: &Zoned| t.hour().into()));
    rows.extend(getter!("getMinutes", |t: &Zoned| t.minute().into()));
    rows.extend(getter!("getSeconds", |t: &Zoned| t.second().into()));
    rows.extend(getter!("getMilliseconds", |t: &Zoned| t.millisecond().into()));
    rows
}

fn beyond() -> Error {
    Error::new("timestamp overflow")
}

fn moved(time: Timestamp, nanoseconds: i128) -> Result<Value, Error> {
    let moved = Timestamp::from_nanosecond(time.as_nanosecond() + nanoseconds);
    moved.map(Value::Timestamp).map_err(|_| beyond())
}

fn long(nanoseconds: i128) -> Result<Value, Error> {
    let fits = i64::try_from(nanoseconds);
    fits.map(Value::Duration).map_err(|_| Error::new("duration overflow"))
}

/// A duration in whole units; milliseconds are those beside the seconds.
fn units(args: &[Value], unit: i64, rest: bool) -> Result<Value, Error> {
    let [Value::Duration(a)] = args else { return Err(no_overload()) };
    let a = if rest { a % SECOND } else { *a };
    Ok(Value::Int(a / unit))
}

fn part(args: &[Value], part: Part) -> Result<Value, Error> {
    let (time, zone) = match args {
        [Value::Timestamp(time)] => (time, TimeZone::UTC),
        [Value::Timestamp(time), Value::String(zone)] => (time, named_zone(zone)?),
        _ => return Err(no_overload()),
    };
    Ok(Value::Int(part(&time.to_zoned(zone))))
}

/// `UTC`, `+02:00`, or a name of the tz database.
fn named_zone(name: &str) -> Result<TimeZone, Error> {
    let unknown = || Error::new(format!("unknown time zone {}", shown(name)));
    if name.is_empty() || name == "UTC" {
        return Ok(TimeZone::UTC);
    }
    if let Some((hours, minutes)) = name.split_once(':') {
        let (hours_, minutes): (i32, i32) = match (hours.parse(), minutes.parse()) {
            (Ok(hours), Ok(minutes)) => (hours, minutes),
            _ => return Err(unknown()),
        };
        if hours_.abs() > 23 || !(0..60).contains(&minutes) {
            return Err(unknown());
        }
        let sign = if hours.starts_with('-') { -1 } else { 1 };
        let seconds = sign * (hours_.abs() * 3600 + minutes * 60);
        return Offset::from_seconds(seconds).map(TimeZone::fixed).map_err(|_| unknown());
    }
    TimeZone::get(name).map_err(|_| unknown())
}

fn shown(text: &str) -> String {
    text.chars().take(100).collect()
}

/// RFC 3339.
pub fn parse_timestamp(text: &str) -> Result<Timestamp, String> {
    let why = || format!("parsing time {:?}: not in RFC 3339", shown(text));
    let bytes = text.as_bytes();
    let in_form = text.len() >= 20
        && (bytes[10] == b'T' || bytes[10] == b't')
        && bytes[..4].iter().all(u8::is_ascii_digit)
        && text.len() <= 40;
    if !in_form { Err(why()) } else { text.parse().map_err(|_| why()) }
}

/// As Go's `time.ParseDuration`: `1h30m`, `-1.5s`, `0`.
pub fn parse_duration(text: &str) -> Result<i64, String> {
    let why = || format!("time: invalid duration {:?}", shown(text));
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() || text.len() > 100 {
        return Err(why());
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let number = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(why)?;
        let (digits, tail) = rest.split_at(number);
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
            return Err(why());
        }
        let length = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (name, tail) = tail.split_at(length);
        let (_, unit) = UNITS.iter().find(|(known, _)| *known == name).ok_or_else(why)?;
        let unit = i128::from(*unit);
        let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| why())? };
        total = whole.checked_mul(unit).and_then(|n| n.checked_add(total)).ok_or_else(why)?;
        let mut scale = unit;
        for digit in fraction.bytes() {
            // What is smaller than a nanosecond is cut off.
            total += i128::from(digit - b'0') * scale / 10;
            scale /= 10;
        }
        rest = tail;
    }
    i64::try_from(if negative { -total } else { total }).map_err(|_| why())
}

/// RFC 3339 with as many digits of the second as it has.
pub fn timestamp_text(time: Timestamp) -> String {
    time.to_string()
}

/// Seconds with an `s`.
pub fn duration_text(nanoseconds: i64) -> String {
    let (seconds, rest) = (nanoseconds / SECOND, (nanoseconds % SECOND).abs());
    let sign = if nanoseconds < 0 && seconds == 0 { "-" } else { "" };
    if rest == 0 {
        return format!("{seconds}s");
    }
    let fraction = format!("{rest:09}");
    format!("{sign}{seconds}.{}s", fraction.trim_end_matches('0'))
}
