//! Drives the generator through its files.

use std::{fs, path::Path, thread, time::Duration};

use anyhow::{Context as _, Result, anyhow, bail};

use super::config::{Config, DIR, FLAG_TAKEN, SHARING, UNSHARED};

/// Says what to do if the kernel has no generator.
pub(super) fn require() -> Result<()> {
    if !Path::new(DIR).is_dir() {
        bail!(
            "this kernel has no packet generator: there is no {DIR}. `modprobe pktgen` loads it where the kernel was \
             built with CONFIG_NET_PKTGEN"
        );
    }
    Ok(())
}

/// Writes the configuration. An interface that takes no packet that the generator goes on holding gets each for itself.
pub(super) fn write(config: &Config<'_>) -> Result<()> {
    config.lines().iter().try_for_each(|(file, line)| put(file, line))?;
    let device = config.device();
    if put(&device, SHARING).is_ok() {
        return config.sharing().iter().try_for_each(|line| put(&device, line));
    }
    put(&device, UNSHARED)?;
    let path = format!("{DIR}/{device}");
    let said = fs::read_to_string(&path).with_context(|| path.clone())?;
    if said.contains(FLAG_TAKEN) {
        return Ok(());
    }
    bail!(
        "{} takes no packet that pktgen goes on holding, and pktgen of this kernel, before 6.7, gives none away; use an \
         interface of hardware or a newer kernel",
        config.interface
    )
}

/// Sends for a time; gives the number of packets.
pub(super) fn run(config: &Config<'_>, time: Duration) -> Result<u64> {
    thread::scope(|scope| {
        // Comes back when the generator has stopped.
        let generator = scope.spawn(|| put("pgctrl", "start"));
        thread::sleep(time);
        put("pgctrl", "stop")?;
        generator.join().map_err(|_| anyhow!("starting pktgen panicked"))?
    })?;
    let path = format!("{DIR}/{}", config.device());
    let text = fs::read_to_string(&path).with_context(|| path.clone())?;
    sent(&text).with_context(|| format!("{path} does not say what was sent:\n{text}"))
}

fn put(file: &str, line: &str) -> Result<()> {
    let path = format!("{DIR}/{file}");
    fs::write(&path, format!("{line}\n")).with_context(|| format!("writing `{line}` to {path}"))
}

/// Packets of the last run.
fn sent(text: &str) -> Option<u64> {
    let rest = text.split_once("pkts-sofar:")?.1;
    rest.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generator_says_how_many_packets_it_sent() {
        let text = "Params: count 0  min_pkt_size: 1358\nCurrent:\n     pkts-sofar: 10000000  errors: 39664\n\
                    Result: OK: 103240(c101244+d1996) usec, 10000000 (1358byte,0frags)\n";
        assert_eq!(sent(text), Some(10_000_000));
        assert_eq!(sent("Params:\n"), None);
    }
}
