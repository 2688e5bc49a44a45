//! How people read an age: `5s`, `2m30s`, `47m`, `3h20m`, `3d4h`, `100d`, `2y10d`.
//!
//! Owns the steps of `duration.HumanDuration` (k8s.io/apimachinery/pkg/util/duration), which every
//! AGE column of `kubectl get` uses. Knows no clock: the caller subtracts.

const MINUTE: i64 = 60;
const HOUR: i64 = 60 * MINUTE;
const DAY_HOURS: i64 = 24;
const YEAR_HOURS: i64 = 365 * DAY_HOURS;

/// Text of an age in whole seconds, with two units at most. A clock that is up to one second behind
/// the object's counts as zero; more than that is `<invalid>`, as kubectl shows it.
pub fn human(seconds: i64) -> String {
    if seconds < -1 {
        return "<invalid>".to_owned();
    }
    let seconds = seconds.max(0);
    if seconds < 2 * MINUTE {
        return format!("{seconds}s");
    }
    if seconds < 10 * MINUTE {
        return two_units(seconds / MINUTE, "m", seconds % MINUTE, "s");
    }
    if seconds < 3 * HOUR {
        return format!("{}m", seconds / MINUTE);
    }
    let hours = seconds / HOUR;
    match hours {
        0..8 => two_units(hours, "h", seconds / MINUTE % 60, "m"),
        8..48 => format!("{hours}h"),
        48..192 => two_units(hours / DAY_HOURS, "d", hours % DAY_HOURS, "h"),
        _ if hours < 2 * YEAR_HOURS => format!("{}d", hours / DAY_HOURS),
        _ if hours < 8 * YEAR_HOURS => {
            two_units(hours / YEAR_HOURS, "y", hours / DAY_HOURS % 365, "d")
        }
        _ => format!("{}y", hours / YEAR_HOURS),
    }
}

fn two_units(large: i64, large_unit: &str, small: i64, small_unit: &str) -> String {
    if small == 0 {
        format!("{large}{large_unit}")
    } else {
        format!("{large}{large_unit}{small}{small_unit}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_read_as_kubectl_prints_them() {
        let day = 24 * HOUR;
        for (seconds, text) in [
            (-2, "<invalid>"),
            (-1, "0s"),
            (0, "0s"),
            (5, "5s"),
            (119, "119s"),
            (120, "2m"),
            (150, "2m30s"),
            (599, "9m59s"),
            (600, "10m"),
            (47 * MINUTE + 59, "47m"),
            (3 * HOUR - 1, "179m"),
            (3 * HOUR, "3h"),
            (3 * HOUR + 20 * MINUTE, "3h20m"),
            (8 * HOUR + 59 * MINUTE, "8h"),
            (47 * HOUR, "47h"),
            (48 * HOUR, "2d"),
            (3 * day + 4 * HOUR, "3d4h"),
            (8 * day + 5 * HOUR, "8d"),
            (100 * day, "100d"),
            (729 * day, "729d"),
            (2 * 365 * day, "2y"),
            ((2 * 365 + 10) * day, "2y10d"),
            (9 * 365 * day + 40 * day, "9y"),
        ] {
            assert_eq!(human(seconds), text, "{seconds} seconds");
        }
        assert!(human(i64::MAX).ends_with('y'));
    }
}
