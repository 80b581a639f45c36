//! What came to a listener.

use std::{collections::BTreeSet, fmt::Write as _, net::IpAddr};

use libtest_mimic::{Failed, Trial};

use crate::bed::{Bed, Outcome, ensure};

/// What came to a listener, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Heard {
    /// Source and number of each whole packet.
    pub(crate) packets: Vec<(IpAddr, u64)>,
    /// The type of service, or the traffic class, of each of them.
    pub(crate) classes: Vec<u8>,
    /// Packets that are not as any source sent them.
    pub(crate) damaged: u64,
}

impl Heard {
    /// Fails unless the packets of one source came in order, once, without a gap and unchanged.
    pub(crate) fn is_whole(&self, source: IpAddr) -> Outcome {
        ensure!(self.damaged == 0, "{} packets came damaged", self.damaged);
        ensure!(!self.packets.is_empty(), "no packet came");
        let stranger = self.packets.iter().find(|(from, _)| *from != source);
        ensure!(stranger.is_none(), "of {source} alone packets should come, but {stranger:?} came");
        for pair in self.packets.windows(2) {
            let (before, next) = (pair[0].1, pair[1].1);
            ensure!(next == before + 1, "after packet {before} of {source} came packet {next}");
        }
        Ok(())
    }

    /// What differs from these numbers of one source, in this order; `None` if nothing does.
    pub(crate) fn difference(&self, source: IpAddr, expected: &[u64]) -> Option<String> {
        if self.damaged > 0 {
            return Some(format!("{} packets came damaged", self.damaged));
        }
        if let Some((stranger, _)) = self.packets.iter().find(|(from, _)| *from != source) {
            return Some(format!("packets of {stranger} came, not of {source} alone"));
        }
        let numbers: Vec<u64> = self.packets.iter().map(|(_, number)| *number).collect();
        if numbers == expected {
            return None;
        }
        let (came, wanted) = (BTreeSet::from_iter(&numbers), BTreeSet::from_iter(expected));
        let first = |a: &BTreeSet<&u64>, b: &BTreeSet<&u64>| a.difference(b).next().map(|number| **number);
        Some(format!(
            "{} packets came, not {} in order; the first missing is {:?}, the first too many {:?}",
            numbers.len(),
            expected.len(),
            first(&wanted, &came),
            first(&came, &wanted)
        ))
    }
}

/// A packet as a line of the file in which a machine tells what came.
pub(crate) fn write(lines: &mut String, source: IpAddr, class: u8, number: Option<u64>) {
    match number {
        Some(number) => writeln!(lines, "{source} {class} {number}"),
        None => writeln!(lines, "{source} damaged"),
    }
    .expect("writing to a string");
}

/// The packets of such a file; a line that is still being written is left for the next look.
pub(crate) fn read(text: &str) -> Result<Heard, Failed> {
    let mut heard = Heard::default();
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    for line in whole.lines() {
        match line.split(' ').collect::<Vec<_>>()[..] {
            [_, "damaged"] => heard.damaged += 1,
            [source, class, number] => {
                heard.packets.push((source.parse()?, number.parse()?));
                heard.classes.push(class.parse()?);
            }
            _ => return Err(format!("no packet: {line}").into()),
        }
    }
    Ok(heard)
}

/// Somebody who listens, wherever.
pub(crate) trait Hears {
    /// What came so far.
    fn heard(&self) -> Result<Heard, Failed>;

    /// Waits until so many more have come.
    fn more(&self, bed: &Bed, packets: usize) -> Outcome {
        let target = self.heard()?.packets.len() + packets;
        let what = format!("{packets} more packets come to a member");
        bed.until(&what, || Ok(self.heard()?.packets.len() >= target)).map_err(|failed| {
            let heard = self.heard().map(|heard| heard.packets.len()).unwrap_or_default();
            format!("{}; {heard} came", failed.message().unwrap_or_default()).into()
        })
    }

    /// Waits until the packet of this number, the last of all, has come.
    fn until_last(&self, bed: &Bed, number: u64) -> Outcome {
        let what = format!("packet {number} comes to a member");
        bed.until(&what, || Ok(self.heard()?.packets.last().is_some_and(|(_, last)| *last >= number)))
    }
}

/// The judge itself is judged on this machine alone.
pub(crate) fn trial() -> Trial {
    Trial::test("the judge finds a gap, a double, a stranger, damage and silence", || {
        const CLASS: u8 = 0xb9;
        let (source, other) = (IpAddr::from([10, 1, 0, 2]), IpAddr::from([10, 1, 0, 3]));
        let file = |packets: &[(IpAddr, Option<u64>)]| {
            let mut lines = String::new();
            packets.iter().for_each(|(from, number)| write(&mut lines, *from, CLASS, *number));
            read(&lines)
        };
        let good = file(&[(source, Some(7)), (source, Some(8)), (source, Some(9))])?;
        good.is_whole(source)?;
        ensure!(good.classes == [CLASS; 3], "the classes of {good:?} are others");
        ensure!(good.difference(source, &[7, 8, 9]).is_none(), "{good:?} is not what was expected");
        for numbers in [&[7, 8][..], &[7, 8, 9, 10], &[7, 9, 8], &[]] {
            ensure!(good.difference(source, numbers).is_some(), "{good:?} passed for {numbers:?}");
        }
        ensure!(good.difference(other, &[7, 8, 9]).is_some(), "another source passed");
        ensure!(
            read("10.1.0.2 185 7\n10.1.0.2 185 8\n10.1.0.2 185 9\n10.1.0")? == good,
            "half a line was read"
        );
        for bad in [
            &[(source, Some(7)), (source, Some(9))][..],
            &[(source, Some(7)), (source, Some(7))],
            &[(source, Some(8)), (source, Some(7))],
            &[(source, Some(7)), (other, Some(8))],
            &[(source, Some(7)), (source, None)],
            &[],
        ] {
            ensure!(file(bad)?.is_whole(source).is_err(), "{bad:?} passed for whole");
        }
        Ok(())
    })
}
