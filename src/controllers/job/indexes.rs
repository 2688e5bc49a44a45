//! Sets of indexes as a Job's status writes them: `0-2,4`. Kept as ranges, so that a set takes as
//! much room as its text, whatever somebody writes into a status.

/// Ranges that neither overlap nor touch, in order; both ends belong to them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Indexes(Vec<(u32, u32)>);

impl Indexes {
    /// Reads a set of indexes below `limit`; what is no number is passed over.
    pub fn parse(text: &str, limit: u32) -> Indexes {
        let mut ranges = Vec::new();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let ends = (first.trim().parse::<u32>(), last.trim().parse::<u32>());
            let (Ok(first), Ok(last)) = ends else { continue };
            let last = last.min(limit.saturating_sub(1));
            if first <= last && first < limit {
                ranges.push((first, last));
            }
        }
        Indexes(joined(ranges))
    }

    pub fn contains(&self, index: u32) -> bool {
        let after = self.0.partition_point(|(first, _)| *first <= index);
        after > 0 && self.0[after - 1].1 >= index
    }

    pub fn add(&mut self, more: impl IntoIterator<Item = u32>) {
        let mut ranges = std::mem::take(&mut self.0);
        ranges.extend(more.into_iter().map(|index| (index, index)));
        self.0 = joined(ranges);
    }

    pub fn len(&self) -> usize {
        self.0.iter().map(|(first, last)| (last - first) as usize + 1).sum()
    }

    /// How many indexes are in both.
    pub fn common(&self, other: &Indexes) -> usize {
        let overlap = |a: &(u32, u32), b: &(u32, u32)| {
            let (first, last) = (a.0.max(b.0), a.1.min(b.1));
            if first <= last { (last - first) as usize + 1 } else { 0 }
        };
        self.0.iter().map(|a| other.0.iter().map(|b| overlap(a, b)).sum::<usize>()).sum()
    }
}

/// Upstream's form: three or more in a row as a range, two apart.
impl std::fmt::Display for Indexes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (at, (first, last)) in self.0.iter().enumerate() {
            if at > 0 {
                f.write_str(",")?;
            }
            match last - first {
                0 => write!(f, "{first}")?,
                1 => write!(f, "{first},{last}")?,
                _ => write!(f, "{first}-{last}")?,
            }
        }
        Ok(())
    }
}

fn joined(mut ranges: Vec<(u32, u32)>) -> Vec<(u32, u32)> {
    ranges.sort_unstable();
    let mut joined: Vec<(u32, u32)> = Vec::new();
    for (first, last) in ranges {
        match joined.last_mut() {
            Some(before) if first <= before.1.saturating_add(1) => before.1 = before.1.max(last),
            _ => joined.push((first, last)),
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::Indexes;

    fn parse(text: &str) -> Indexes {
        Indexes::parse(text, 100)
    }

    #[test]
    fn sets_are_read_and_written() {
        for text in ["", "0", "0,1", "0-2,4", "1,3-5,8,9"] {
            assert_eq!(parse(text).to_string(), text);
        }
        assert_eq!(parse("3,1,2,x,2-7").to_string(), "1-7");
        assert_eq!(parse("5-4294967295").to_string(), "5-99");
        assert_eq!(parse("200-300").to_string(), "");
        assert_eq!(Indexes::parse("0", 0).to_string(), "");
    }

    #[test]
    fn members_are_found_counted_and_added() {
        let mut set = parse("1,3-5");
        assert_eq!(
            [0, 1, 2, 3, 5, 6].map(|i| set.contains(i)),
            [false, true, false, true, true, false]
        );
        assert_eq!((set.len(), set.common(&parse("4-9,1"))), (4, 3));
        set.add([2, 9]);
        assert_eq!(set.to_string(), "1-5,9");
    }
}
