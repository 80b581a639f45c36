//! Memory of the kernel itself.

use std::{fs, time::Duration};

use anyhow::{Context as _, Result};

const PATH: &str = "/proc/meminfo";
/// What tables of kernel programs are made of. Slabs that can be reclaimed are caches of file systems.
const KINDS: [&str; 3] = ["SUnreclaim:", "VmallocUsed:", "Percpu:"];

/// How long nothing may have changed, and how often that is waited for at most.
const SETTLE: (Duration, u32) = (Duration::from_millis(150), 10);

/// Bytes in use once what was ordered is made and what was given up is freed: both happen behind the back of
/// whoever asked.
pub(super) fn settled() -> Result<u64> {
    let mut last = used()?;
    for _ in 0..SETTLE.1 {
        std::thread::sleep(SETTLE.0);
        let now = used()?;
        if now == last {
            break;
        }
        last = now;
    }
    Ok(last)
}

fn used() -> Result<u64> {
    let text = fs::read_to_string(PATH).context(PATH)?;
    KINDS.iter().map(|kind| kibibytes(&text, kind).map(|kib| kib * 1024)).sum()
}

fn kibibytes(text: &str, kind: &str) -> Result<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(kind));
    let line = line.with_context(|| format!("no {kind} in {PATH}"))?;
    line.trim().trim_end_matches(" kB").parse().with_context(|| line.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_in_kibibytes() {
        let text = "Slab:   10 kB\nSUnreclaim:      161084 kB\nPercpu:   7 kB\n";
        assert_eq!(kibibytes(text, "SUnreclaim:").expect("the line"), 161_084);
        assert!(kibibytes(text, "VmallocUsed:").is_err());
    }
}
